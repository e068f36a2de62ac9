"""KEEP: its options, and the values that a study may try. The equations are in `model.py`."""

import dataclasses

from milk_recsys.config.method import Method, count, log_range, option


@dataclasses.dataclass(frozen=True)
class KeepOptions:
    """Options of KEEP."""

    width: float = option(1.0, "How fast likeness falls with the angle (gamma).", above=True)
    ridge: float = option(1.0, "Strength of the regression on content (l).", above=True)
    shrinkage: float = option(
        1.0, "Strength of the shrinkage, in means of the 50 largest squared singular values."
    )
    popularity: float = option(
        0.25, "Power of the counts of users and items that their pairs are divided by (b)."
    )
    rank: int = count(2048, "Singular vectors of users and items, at most.")
    landmarks: int = count(
        4096, "Warm items that span the kernel where there are more than 10,000; else all do."
    )
    per_pattern: bool = option(
        True, "A regression for each pattern of modalities; or that of all of them for all."
    )
    fit_weights: bool = option(
        True, "Fit how much each modality of a pattern counts (mu); or let all count alike."
    )


KEEP = Method(
    name="keep",
    title="KEEP",
    options=KeepOptions,
    learner="milk_recsys.methods.keep.model:keep_learner",
    model="milk_recsys.methods.keep.model:Keep",
    scorer="milk_recsys.methods.keep.model:scoring_model",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"ridge": log_range(0.1, 10), "width": log_range(0.3, 5), "shrinkage": log_range(0.2, 5)},
    search_seed=22,
)
