"""Options of ridge regression and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, log_range, option


@dataclasses.dataclass(frozen=True)
class RidgeOptions:
    """Options of the ridge regression, one for each pattern of modalities."""

    ridge: float = option(
        3.0, "Strength of the ridge penalty of the regression on content (l).", above=True
    )
    smoothing: float = option(
        100.0, "Strength of the kernel ridge over users (lambda); 0: no smoothing."
    )


RIDGE = Method(
    name="ridge",
    title="ridge regression",
    options=RidgeOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.ridge.model:Ridge",
    without=("negatives", "features", "scale_before_impute"),
    space={"ridge": log_range(0.3, 30), "smoothing": choice(0.0, 30.0, 100.0, 300.0)},
    search_seed=17,
)
