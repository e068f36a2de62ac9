"""What is searched for each method, how many are searched alike, and how long a run may be. All in one place.

A run is capped in epochs, never in seconds: a slow machine must not change a result. Every method gets the same number
of trials, in a space of its own; that equal trials in unequal spaces are not equal chances is what the plot of the best
score so far is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from milk_recsys.config.method import BUILT_IN, Choice, Interval, find_method, log_range

__all__ = [
    "ABLATIONS",
    "CLOSED",
    "FACTORS",
    "FIELD",
    "METHODS",
    "SPACES",
    "SWEEPS",
    "VARIANTS",
    "WHY_PENALTIES",
    "WINNER",
    "WITHOUT",
    "Space",
]

Space = Mapping[str, Interval | Choice]


_BY_SEED = sorted((find_method(name) for name in BUILT_IN), key=lambda method: method.search_seed)

SPACES: Mapping[str, Space] = MappingProxyType({method.name: method.space for method in _BY_SEED})
"""Method -> option -> the values that a study may try. Methods without a space have nothing to tune."""

FACTORS: Space = MappingProxyType(
    {"factor_lr": log_range(2e-3, 2e-2), "factor_l2": log_range(3e-4, 1e-1)}
)
"""Of the matrix factorisation that several methods start from: tuned once a set, on its own held-out pairs."""

ABLATIONS = ("milk", "align", "envs", "erm")
FIELD = tuple(SPACES)
"""All methods that the package brings, by their search seeds."""
METHODS = tuple(method.name for method in _BY_SEED if method.paper)
"""Those of the paper's tables: MILK, its ablations, its baselines and two floors."""
CLOSED = ("knn", "marec", "ridge")
"""Closed forms that others found."""
WINNER = "keep"
"""What the field's table is asked to beat."""

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "w/o e=0": {"envs": "without_uniform"},
        "w/o cs": {"envs": "independent"},
        "w/o random": {"envs": "fixed"},
    }
)
"""Table 4: other environments, by their name there."""

LINEAR = 0.01  # the width at which exp(width (cos - 1)) is 1 - width + width cos to four digits


def _linear(tuned: Mapping[str, Any]) -> Mapping[str, Any]:
    """A kernel without curvature, with the ridge as strong beside it as before."""
    return {"width": LINEAR, "ridge": tuned["ridge"] * LINEAR / tuned["width"]}


WITHOUT: Mapping[str, Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]] = (
    MappingProxyType(
        {
            "one regression for all patterns": {"per_pattern": False},
            "all modalities alike": {"fit_weights": False},
            "counts not damped": {"popularity": 0.0},
            "not shrunk": {"shrinkage": 0.0},
            "linear kernel": _linear,
            "64 vectors": {"rank": 64},
        }
    )
)
"""The winner without one of its parts: what is other than as tuned, or how that follows from what is."""

SWEEPS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "alpha": (0.01, 0.1, 1, 10, 100),
        "alignment_weight": (0.005, 0.05, 0.5, 5),
        "penalty_weight": (0, 0.1, 1, 10, 50, 100, 1000),
    }
)
"""Figure 6: one option of MILK at a time, the others as tuned."""

WHY_PENALTIES = (0, 1, 10, 100, 1000)
"""Penalty weights, of those of the sweep, at which it is looked what becomes of each modality."""
