"""Deprecated methods of `RobustnessReport`, which are now functions of `invmod.robustness`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from invmod._deprecation import warn_renamed
from invmod.robustness.frame import to_frame
from invmod.robustness.page import write_page
from invmod.robustness.plots import plot_patterns, plot_rates
from invmod.robustness.report import RobustnessReport

METHODS: dict[str, Callable[..., Any]] = {
    "plot_patterns": plot_patterns,
    "plot_rates": plot_rates,
    "save_html": write_page,
    "to_frame": to_frame,
}


def add_deprecated_methods() -> None:
    """Set the methods of `METHODS` on `RobustnessReport`."""
    for name, function in METHODS.items():
        setattr(RobustnessReport, name, _deprecated_method(name, function))


def _deprecated_method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: RobustnessReport, *arguments: Any, **options: Any) -> Any:
        warn_renamed(
            f"RobustnessReport.{name}", f"invmod.robustness.{function.__name__}", ends_in="0.3"
        )
        return function(self, *arguments, **options)

    method.__name__, method.__qualname__ = name, f"RobustnessReport.{name}"
    method.__doc__ = f"Deprecated: use `invmod.robustness.{function.__name__}`."
    return method
