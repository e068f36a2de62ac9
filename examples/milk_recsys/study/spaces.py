"""Search spaces of all methods, and the variants and sweeps of a study.

A run is limited in epochs, never in seconds, so that a slow machine does not change a result. All
methods get the same number of trials, each in its own search space. Because these spaces differ in
size, the study also plots the best validation score against the number of trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from milk_recsys.config.method import BUILT_IN, Choice, Interval, find_method, log_range

__all__ = [
    "ABLATIONS",
    "CLOSED",
    "FACTORS",
    "FIELD",
    "FORMER",
    "METHODS",
    "SPACES",
    "SWEEPS",
    "VARIANTS",
    "VARIANTS_IN_WORDS",
    "WHY_PENALTIES",
    "WINNER",
    "WITHOUT",
    "Space",
    "is_own",
    "space_of",
]

Space = Mapping[str, Interval | Choice]


_BY_SEED = sorted((find_method(name) for name in BUILT_IN), key=lambda method: method.search_seed)

SPACES: Mapping[str, Space] = MappingProxyType({method.name: method.space for method in _BY_SEED})
"""Method of the package -> option -> values that a study may try.

A method with an empty space is not tuned.
"""


def space_of(name: str) -> Space:
    """Return the search space of a method, which may be one of your own.

    A function, not a table: `register` may add a method after this module was imported.
    """
    return find_method(name).space


def is_own(name: str) -> bool:
    """Return whether a method was added by `register` or by an entry point."""
    return name not in BUILT_IN


FACTORS: Space = MappingProxyType(
    {"factor_lr": log_range(2e-3, 2e-2), "factor_l2": log_range(3e-4, 1e-1)}
)
"""Space of the matrix factorisation that several methods start from.

It is tuned once per data set, on held-out training pairs.
"""

ABLATIONS = ("milk", "align", "envs", "erm")
FIELD = tuple(SPACES)
"""All methods of the package, in the order of their search seeds."""
METHODS = tuple(method.name for method in _BY_SEED if method.paper)
"""Methods of the paper's tables: MILK, its ablations, baselines, content kNN and random order."""
CLOSED = ("knn", "marec", "ridge")
"""Baselines with a closed form, from other authors."""
WINNER = "keep"
"""The method that the comparison of all systems tests against the others."""
FORMER = "keep_tuned"
"""The first version of the winner, whose options were tuned: commit 8f00d99 made its runs.

Results files may have runs with this name. They are compared with the other systems, but this
version cannot make more of them.
"""

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "w/o e=0": {"envs": "without_uniform"},
        "w/o cs": {"envs": "independent"},
        "w/o random": {"envs": "fixed"},
    }
)
"""Variants of Table 4 by their name in it: options of MILK with other environments."""

VARIANTS_IN_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "w/o e=0": "without the uniform environment",
        "w/o cs": "without cyclic shifts",
        "w/o random": "with one draw for the whole run",
    }
)
"""Variant of Table 4 -> what tables and claims call it."""

LINEAR = 0.01  # at this width exp(width (cos - 1)) equals 1 - width + width cos to four digits


WITHOUT: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "one regression for all patterns": {"per_pattern": False},
        "all modalities alike": {"fit_weights": False},
        "counts not damped": {"popularity": 0.0},
        "not shrunk": {"shrinkage": 0.0},
        "linear kernel": {"width": LINEAR},
        "64 vectors": {"rank": 64},
        "popularity not predicted": {"predicted_popularity": 0.0},
        "options not chosen": {
            "width": 1.0,
            "ridge": 1.0,
            "shrinkage": 1.0,
            "predicted_popularity": 0.125,
        },
    }
)
"""Ablation of the winner -> options that are given, instead of the defaults."""

SWEEPS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "alpha": (0.01, 0.1, 1, 10, 100),
        "alignment_weight": (0.005, 0.05, 0.5, 5),
        "penalty_weight": (0, 0.1, 1, 10, 50, 100, 1000),
    }
)
"""Figure 6: values of one option of MILK, while the other options stay as tuned."""

WHY_PENALTIES = (0, 1, 10, 100, 1000)
"""Penalty weights of the sweep for which the value of each modality is measured."""
