"""Leak audit of a function from outside: does it use only what it may use?

The function is called as

    fit(pairs=..., features=..., mask=..., cold_features=..., cold_mask=..., users=..., seed=...)

with NumPy arrays (`fit_inputs.Inputs` describes them) and returns the scores of the cold
items for the users, or lists of them. The audit calls it several times with inputs that differ in
something that must not matter, and compares its results:

* the same inputs again: a function must depend on its inputs and the seed alone;
* hidden cells with the values that the setting hides, instead of NaN;
* the cold items in another order: their scores must be in the same order, or the function
  identifies the items, as it does if it read their test pairs;
* every second cold item alone: a score that changes depends on the features of the others, as it
  does if these were used in training;
* every second user alone: a score must not depend on which users have test pairs.

While the function runs, Python reports the files that it opens, and a file of the data set is a
leak. The audit finds mistakes. It cannot find fraud, such as a file of another name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.study.bench.export import list_length
from milk_recsys.study.bench.fit_inputs import Array, Fit, Inputs, inputs_of
from milk_recsys.study.bench.tasks import Instance
from milk_recsys.study.records import Leak

__all__ = ["audit_fit", "load_fit"]

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Tolerance of scores whose computation differs in its order of summation, as in `audit.py`.

The absolute part is a share of the largest score.
"""


def load_fit(reference: str) -> Fit:
    """Import the function MODULE:NAME, from the working folder or an installed package.

    Raises:
        DataError: there is no such module or function, or it is not callable.
    """
    module, _, name = reference.partition(":")
    if not module or not name.isidentifier():
        raise DataError(f"{reference!r}: must be MODULE:NAME, such as my_method:fit.")
    with _importable(Path.cwd()):
        try:
            fit: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise DataError(
                f"{reference}: cannot be imported ({error}). Run the command in the folder of "
                f"{module}.py."
            ) from None
    if not callable(fit):
        raise DataError(f"{reference}: is not a function.")
    loaded: Fit = fit
    return loaded


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put a folder at the front of the path of modules; an installed command does not do so."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


# --- the audit ------------------------------------------------------------------------------------


def audit_fit(
    fit: Fit | str, instance: Instance, folder: Path | None, *, transductive: bool = False
) -> tuple[str, ...]:
    """Call the function with inputs that must not matter, and compare its results.

    Arguments:
        fit: the function, or MODULE:NAME.
        folder: of the data set; its files must not be opened. None if it is generated.
        transductive: the function may use the features of the cold items in training, so the test
            of their independence is left out.

    Returns:
        the checks that passed.

    Raises:
        Leak: the function uses something that it must not use; the message says what.
        DataError: its result cannot be used.
    """
    given = inputs_of(instance, few_users=True)
    count, half = len(given.cold_mask), np.arange(0, len(given.cold_mask), 2)
    with _opened_files(folder) as opened:
        fit = load_fit(fit) if isinstance(fit, str) else fit
        first = _checked(given.call(fit), given)
        again = _checked(given.call(fit), given)
    if opened:
        raise Leak(
            f"leak: test pairs: the function opened {opened[0]}, a file of the data set, which "
            "holds what is hidden. Use the arguments alone."
        )
    exact = np.array_equal(first, again)
    if not _close(first, again):
        raise Leak(
            "leak: nondeterminism: two calls with the same arguments return different results. "
            "Draw all random numbers from `seed`."
        )
    passed = ["repeatability"]
    if not given.cold_mask.all() or not given.mask.all():
        revealed = inputs_of(instance, few_users=True, reveal=True)
        other = _checked(revealed.call(fit), revealed)
        if not (np.array_equal(first, other) if exact else _close(first, other)):
            raise Leak(
                "leak: hidden cells: the result changes with the values of cells where the mask is "
                "False. Select the available cells by `mask` and `cold_mask`."
            )
        passed.append("hidden cells")
    order = np.random.default_rng(0).permutation(count)
    moved = given.only_cold(order)
    if not _close(_select(first, order), _checked(moved.call(fit), moved)):
        raise Leak(
            "leak: test pairs: with the cold items in another order, their scores do not follow "
            "their features, so the function identifies them by position. Score an item by its "
            "features alone. (Where lists order equal scores by place, return scores instead.)"
        )
    passed.append("order of the cold items")
    if not transductive:
        part = given.only_cold(half)
        if not _consistent(_select(first, half), _checked(part.call(fit), part)):
            raise Leak(
                "leak: cold items' features: the score of an item changes with the other cold "
                "items that are given, so they were used in training or in scaling. Fit everything "
                "on warm items alone. (--transductive allows it, and states it.)"
            )
        passed.append("other cold items")
    fewer = dataclasses.replace(given, users=given.users[::2])
    if not _close(first[::2], _checked(fewer.call(fit), fewer)):
        raise Leak(
            "leak: test users: the scores of a user change with the other users who are ranked. "
            "Which users have a test pair is not known when a model is used."
        )
    return (*passed, "other users", *(["files of the data set"] if folder else []))


def _checked(returned: Any, given: Inputs) -> Array:
    """Return scores (U, C), or lists (U, K) of rows of cold items, after checking them.

    Raises:
        DataError: the shape, type or values cannot be used.
    """
    result = np.asarray(returned)
    users, count = len(given.users), len(given.cold_mask)
    if result.dtype.kind == "f" and result.shape == (users, count):
        if not np.isfinite(result).all():
            raise DataError(
                "fit: scores must be finite, but some are NaN or infinity. Cells where the mask is "
                "False hold NaN; select the others by the mask."
            )
        return result
    length = list_length(count)
    if result.dtype.kind in "iu" and result.ndim == 2 and len(result) == users:
        inside = bool(((result >= 0) & (result < count)).all())
        distinct = all(len(np.unique(row)) == len(row) for row in result)
        if length <= result.shape[1] <= count and inside and distinct:
            return result
    raise DataError(
        f"fit: must return scores, float ({users}, {count}), or lists, integers ({users}, K) with "
        f"K at least {length} different rows of cold items, the best first; got {result.dtype} "
        f"{result.shape}."
    )


def _is_lists(result: Array) -> bool:
    return result.dtype.kind in "iu"


def _close(a: Array, b: Array) -> bool:
    """Return whether scores are equal up to the order of summation, or lists are identical."""
    if a.shape != b.shape:
        return False
    if _is_lists(a) or _is_lists(b):
        return np.array_equal(a, b)
    scale = ABSOLUTE * float(np.abs(a).max(initial=0.0)) + 1e-12
    return np.allclose(a, b, rtol=RELATIVE, atol=scale)


def _select(result: Array, rows: Array) -> Array:
    """Return what the result for some cold items, given as rows, must be.

    Scores are columns. In lists, the rows of cold items are renumbered, and items that are not
    among `rows` become -1.
    """
    if not _is_lists(result):
        return result[:, rows]
    renumbered = np.full(int(max(result.max(), rows.max())) + 1, -1)
    renumbered[rows] = np.arange(len(rows))
    return renumbered[result]


def _consistent(expected: Array, got: Array) -> bool:
    """Return whether the result for some cold items agrees with that for all of them.

    A list of all items, without the items that were left out, must begin a list of the others.
    """
    if not _is_lists(got):
        return _close(expected, got)
    rows = zip(expected, got, strict=True)
    return all(
        np.array_equal(kept[: len(own)], own[: len(kept)])
        for kept, own in ((row[row >= 0], own) for row, own in rows)
    )


# --- files that are opened ------------------------------------------------------------------------

_WATCHED: list[tuple[Path, list[str]]] = []
"""Folders whose files are watched now, each with the files opened so far."""


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _WATCHED or not isinstance(arguments[0], (str, bytes)):
        return
    name = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
    for folder, opened in _WATCHED:
        if Path(name).resolve().is_relative_to(folder):
            opened.append(name)


@contextlib.contextmanager
def _opened_files(folder: Path | None) -> Iterator[list[str]]:
    """Collect the files of a folder that Python opens meanwhile."""
    opened: list[str] = []
    if folder is None:
        yield opened
        return
    _hook()
    _WATCHED.append((folder.resolve(), opened))
    try:
        yield opened
    finally:
        _WATCHED.pop()


_HOOKED: list[bool] = []


def _hook() -> None:
    """Install the hook once; Python has no way to remove one."""
    if not _HOOKED:
        sys.addaudithook(_note_opened)
        _HOOKED.append(True)
