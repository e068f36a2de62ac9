"""Trackers: where losses and metrics of a run are sent as well. This module imports none of them.

A package declares its own tracker by an entry point in the group ``milk_recsys.trackers``: a
function ``(folder, config)`` that returns a `run.trackers.Tracker`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from milk_recsys.base.errors import OptionError
from milk_recsys.config.method import load

__all__ = ["BUILT_IN_TRACKERS", "ENTRY_POINTS", "find_tracker", "tracker_names"]

ENTRY_POINTS = "milk_recsys.trackers"
BUILT_IN_TRACKERS: Mapping[str, str] = MappingProxyType(
    {
        "tensorboard": "milk_recsys.run.trackers:TensorBoard",
        "mlflow": "milk_recsys.run.trackers:MLflow",
    }
)
"""Name -> "module:name". The name is also that of the package it needs, and of its extra."""


def tracker_names() -> tuple[str, ...]:
    """Return the names of all trackers, without importing them."""
    points = (point.name for point in _entry_points())
    return tuple(dict.fromkeys([*BUILT_IN_TRACKERS, *points]))


def find_tracker(name: str) -> Callable[[], Callable[[Path, Mapping[str, Any]], Any]]:
    """Return a function that imports a tracker, so that checks of options import nothing.

    Raises:
        OptionError: there is no such tracker, or its package is not installed.
    """
    if name in BUILT_IN_TRACKERS:
        if find_spec(name) is None:
            raise OptionError(
                f"--tracker {name} needs {name}, which is not installed: "
                f"pip install 'invmod[{name}]'"
            )
        return lambda: load(BUILT_IN_TRACKERS[name])
    for point in _entry_points():
        if point.name == name:
            return point.load
    raise OptionError(
        f"--tracker {name}: there is no such tracker. Choose from {', '.join(tracker_names())}, or "
        f"install a package that declares it in the group {ENTRY_POINTS}."
    )


def _entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    yield from importlib.metadata.entry_points(group=ENTRY_POINTS)
