"""Files that a command writes: they are checked before the work, which may be long."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invmod._optional import import_optional
from invmod.cli.errors import UsageError

NEEDED = {
    "json": (),
    "png": (("matplotlib.pyplot", "The picture"),),
    "html": (("jinja2", "The page"), ("matplotlib.pyplot", "The page")),
}
"""Option of a file -> modules that writing it needs, and its name in words."""


def check_outputs(options: argparse.Namespace, data: str) -> None:
    """Raise unless each file of the options can be written to a place of its own.

    Arguments:
        options: with `json`, `html` and perhaps `png`, paths or None.
        data: path of the data, which must not be overwritten.
    """
    taken = {Path(data).resolve(): "the data"}
    for option, modules in NEEDED.items():
        path = getattr(options, option, None)
        if path is None:
            continue
        place = Path(path).resolve()
        if place in taken:
            raise UsageError(f"--{option} {path}: this file is {taken[place]}. Name another file.")
        taken[place] = f"that of --{option}"
        with written(option, path):
            for module, what in modules:
                import_optional(module, what=what)
            _check_place(option, path)


def _check_place(option: str, path: str) -> None:
    folder = Path(path).parent
    if not path or Path(path).is_dir():
        raise UsageError(f"--{option} {path}: this is a folder. Name a file in it.")
    if not folder.is_dir():
        raise UsageError(f"--{option} {path}: there is no folder {folder}. Create it first.")
    # Only an attempt shows whether a folder can be written to: permissions do not tell of file
    # systems that are read-only.
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def written(option: str, path: str) -> Iterator[None]:
    """Turn errors of the block into one that names the option and its file.

    Example:
        >>> with written("html", "x.html"):
        ...     raise PermissionError(13, "Permission denied", ".x.html.tmp")
        Traceback (most recent call last):
        invmod.cli.errors.UsageError: --html x.html: the file cannot be written: Permission denied.
    """
    try:
        yield
    except OSError as error:
        # The error itself names a temporary file, which the user does not know.
        reason = error.strerror or str(error)
        raise UsageError(f"--{option} {path}: the file cannot be written: {reason}.") from error
    except ImportError as error:
        raise UsageError(f"--{option} {path}: {error}") from error
