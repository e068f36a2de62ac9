"""Options of FEASE's two forms and their search spaces in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, log_range, option


@dataclasses.dataclass(frozen=True)
class FeaseOptions:
    """Options of FEASE-I with a prior."""

    l2: float = option(
        10_000.0,
        "Strength of the penalties on the item-item weights (kappa): the sum of the ridge penalty "
        "and of the weight of the prior. The ranking of new items depends on the sum alone.",
        above=True,
    )


@dataclasses.dataclass(frozen=True)
class FeaseUOptions:
    """Options of FEASE-U."""

    l2: float = option(
        10_000.0, "Strength of the ridge penalty on the item-item weights (l).", above=True
    )
    content_weight: float = option(
        100.0,
        "Weight of the rows of content next to the rows of users (alpha^2), shared by the "
        "modalities that a new item has.",
        above=True,
    )


FEASE = Method(
    name="fease",
    title="FEASE-I",
    options=FeaseOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.fease.model:Fease",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"l2": log_range(100, 1e5)},
    search_seed=23,
)

FEASE_U = Method(
    name="fease_u",
    title="FEASE-U",
    options=FeaseUOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.fease.model:FeaseU",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"l2": log_range(300, 1e5), "content_weight": log_range(10, 1e4)},
    search_seed=24,
)
