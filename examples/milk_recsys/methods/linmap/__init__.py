"""Options of the linear map and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, log_range, option


@dataclasses.dataclass(frozen=True)
class LinmapOptions:
    """Options of the linear map from content to the scores of a donor."""

    ridge: float = option(
        10.0, "Strength of the ridge penalty of the map from content (l).", above=True
    )
    shrinkage: float = option(
        1.0,
        "Shrinkage of the donor's singular values (lambda), in units of the mean of the 50 largest "
        "squared ones.",
        above=True,
    )
    popularity: float = option(
        0.25,
        "Exponent b of the donor: each pair is divided by (its user's pairs x its item's pairs) to "
        "the power b.",
        high=2,
    )
    per_pattern: bool = option(
        False,
        "Fit one map per pattern of modalities, or one map for all items, in which the features "
        "of an item with few modalities are scaled up.",
    )


LINMAP = Method(
    name="linmap",
    title="linear map",
    options=LinmapOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.linmap.model:Linmap",
    without=("negatives", "features", "scale_before_impute"),
    space={
        "ridge": log_range(0.3, 30),
        "shrinkage": log_range(0.2, 5),
        "popularity": choice(0.0, 0.25, 0.5),
    },
    search_seed=25,
)
