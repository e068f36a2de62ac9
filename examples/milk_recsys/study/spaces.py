"""What is searched for each method, how many are searched alike, and how long a run may be. All in one place.

A run is capped in epochs, never in seconds: a slow machine must not change a result. Every method gets the same number
of trials, in a space of its own; that equal trials in unequal spaces are not equal chances is what the plot of the best
score so far is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

__all__ = [
    "ABLATIONS",
    "CLOSED",
    "FACTORS",
    "FIELD",
    "LIMITS",
    "METHODS",
    "SPACES",
    "SWEEPS",
    "VARIANTS",
    "WHY_PENALTIES",
    "WINNER",
    "WITHOUT",
]

Space = Mapping[str, BaseDistribution]


def _log(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high, log=True)


def _between(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high)


def _one_of(*values: float) -> CategoricalDistribution:
    return CategoricalDistribution(values)


LR, ALPHA, PENALTY, ALIGNMENT = _log(1e-3, 3e-2), _log(1e-2, 1e2), _log(1e-1, 1e2), _log(5e-3, 5.0)

SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "milk": {"lr": LR, "alpha": ALPHA, "penalty_weight": PENALTY, "alignment_weight": ALIGNMENT},
        "align": {"lr": LR, "alignment_weight": ALIGNMENT},
        "envs": {"lr": LR, "alpha": ALPHA, "penalty_weight": PENALTY},
        "erm": {"lr": LR},
        "duif": {"lr": _log(1e-3, 3e-2), "l2": _log(1e-5, 5e-3)},
        "micro": {
            "lr": _log(1e-4, 5e-3),
            "l2": _log(1e-6, 1e-3),
            "contrast_weight": _log(3e-3, 1.0),
            "tau": _log(0.1, 1.0),
        },
        "dropoutnet": {"lr": _log(3e-4, 3e-3), "dropout": _one_of(0.2, 0.5, 0.8), "hidden": _one_of(64, 128, 256)},
        "mtpr": {"lr": _log(1e-3, 5e-2), "embedding_lr": _log(1e-3, 1e-1), "decay": _log(1e-4, 5e-2)},
        "heater": {"lr": _log(1e-3, 2e-2), "similarity_weight": _log(1e-2, 1.0), "l2": _log(1e-5, 1e-3)},
        "clcrec": {
            "lr": _log(5e-4, 5e-3),
            "num_negatives": _one_of(64, 128, 256),
            "tau": _log(0.1, 2.0),
            "content_share": _between(0.1, 0.9),
            "norm_weight": _log(1e-4, 1e-1),
        },
        "ccfcrec": {
            "lr": _log(3e-4, 1e-2),
            "contrast_share": _between(0.1, 0.9),
            "tau": _log(0.05, 0.5),
            "weight_decay": _log(1e-6, 1e-3),
        },
        "gar": {
            "lr": _log(3e-4, 3e-3),
            "similarity_share": _between(0.05, 0.9),
            "real_share": _between(0.05, 0.95),
            "l2": _log(1e-4, 1e-2),
        },
        "gorec": {
            "lr": _log(3e-4, 5e-3),
            "uniformity_weight": _log(1e-3, 10.0),
            "kl_weight": _log(1e-4, 1.0),
            "cluster_items": _one_of(4, 8, 20),
        },
        "content_knn": {},
        "random": {},
        "knn": {"neighbours": _one_of(10, 20, 50, 0)},
        "marec": {"neighbours": _one_of(10, 20, 50, 0), "smoothing": _log(10, 300)},
        "ridge": {"ridge": _log(0.3, 30), "smoothing": _one_of(0.0, 30.0, 100.0, 300.0)},
        "sibrar": {
            "lr": _log(3e-4, 1e-2),
            "weight_decay": _log(1e-6, 1e-2),
            "contrast_weight": _one_of(0.0, 1e-5, 1e-4, 1e-3),
            "width": _one_of(64, 128, 256),
        },
        "i3mrec": {
            "lr": _log(3e-4, 1e-2),
            "penalty_weight": _log(1.0, 300.0),
            "contrast_weight": _log(1e-3, 1e-1),
            "l2": _log(1e-4, 1e-2),
        },
        "dgmrec": {
            "lr": _log(3e-4, 1e-2),
            "contrast_weight": _log(1e-3, 1e-1),
            "translation_weight": _between(0.1, 1.0),
            "layers": _one_of(1, 2),
        },
        "aldi": {
            "lr": _log(3e-4, 1e-2),
            "ranking_weight": _log(0.1, 2.0),
            "rating_weight": _log(0.01, 1.0),
            "l2": _log(1e-5, 1e-2),
        },
        "keep": {"ridge": _log(0.1, 10), "width": _log(0.3, 5), "shrinkage": _log(0.2, 5)},
    }
)
"""Method -> option -> what it may be. Methods without a space have nothing to tune."""

FACTORS: Space = MappingProxyType({"factor_lr": _log(2e-3, 2e-2), "factor_l2": _log(3e-4, 1e-1)})
"""Of the matrix factorisation that several methods start from: tuned once a set, on its own held-out pairs."""

ABLATIONS = ("milk", "align", "envs", "erm")
FIELD = tuple(SPACES)
"""All methods; a method's place in it is part of its trials' seeds, so a new one comes last."""
METHODS = FIELD[: FIELD.index("knn")]
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


WITHOUT: Mapping[str, Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]] = MappingProxyType(
    {
        "one regression for all patterns": {"per_pattern": False},
        "all modalities alike": {"fit_weights": False},
        "counts not damped": {"popularity": 0.0},
        "not shrunk": {"shrinkage": 0.0},
        "linear kernel": _linear,
        "64 vectors": {"rank": 64},
    }
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

_MILK = {"epochs": 300, "eval_every": 10, "patience": 3}
LIMITS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "milk": _MILK,
        "align": _MILK,
        "envs": _MILK,
        "erm": _MILK,
        "duif": {"epochs": 150, "eval_every": 10, "patience": 3},
        "micro": {"epochs": 12, "eval_every": 1, "patience": 3},
        "dropoutnet": {"epochs": 10, "eval_every": 1, "patience": 3},
        "mtpr": {"epochs": 40, "eval_every": 5, "patience": 3},
        "heater": {"epochs": 10, "eval_every": 1, "patience": 3},
        "clcrec": {"epochs": 15, "eval_every": 1, "patience": 3},
        "ccfcrec": {"epochs": 24, "eval_every": 2, "patience": 3},
        "gar": {"epochs": 12, "eval_every": 1, "patience": 3},
        "gorec": {"epochs": 300, "eval_every": 10, "patience": 3},
        "sibrar": {"epochs": 20, "eval_every": 1, "patience": 3},
        "i3mrec": {"epochs": 40, "eval_every": 2, "patience": 3},
        "dgmrec": {"epochs": 40, "eval_every": 2, "patience": 3},
        "aldi": {"epochs": 15, "eval_every": 1, "patience": 3},
    }
)
"""Caps of a run in the study, chosen by its budget; the defaults of train.py are longer."""
