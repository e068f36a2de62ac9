"""KEEP: its options and its search space. The equations are in `model.py`."""

import dataclasses

from milk_recsys.config.method import Method, count, log_range, option


@dataclasses.dataclass(frozen=True)
class KeepOptions:
    """Options of KEEP."""

    width: float = option(
        1.0, "Rate at which the kernel decreases with the angle between items (gamma).", above=True
    )
    ridge: float = option(1.0, "Ridge penalty of the kernel regression on content (l).", above=True)
    shrinkage: float = option(
        1.0,
        "Shrinkage of the singular values (lambda), in units of the mean of the 50 largest squared "
        "ones.",
    )
    popularity: float = option(
        0.25,
        "Exponent b: each pair is divided by (its user's pairs x its item's pairs) to the power b.",
    )
    rank: int = count(2048, "Maximum number of singular vectors of users and items.")
    landmarks: int = count(
        4096,
        "Number of warm items that span the kernel if there are more than 10,000; else all do.",
    )
    per_pattern: bool = option(
        True,
        "Fit one regression per pattern of modalities, or one with all modalities for all items.",
    )
    fit_weights: bool = option(
        True, "Fit the weights of a pattern's modalities (mu), or weight them equally."
    )


KEEP = Method(
    name="keep",
    title="KEEP",
    options=KeepOptions,
    compare="none",  # erm is not an ablation of KEEP.
    learner="milk_recsys.methods.keep.model:keep_learner",
    model="milk_recsys.methods.keep.model:Keep",
    scorer="milk_recsys.methods.keep.model:scoring_model",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"ridge": log_range(0.1, 10), "width": log_range(0.3, 5), "shrinkage": log_range(0.2, 5)},
    search_seed=22,
)
