"""Options of Content kNN and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method


@dataclasses.dataclass(frozen=True)
class ContentKnnOptions:
    """Content kNN has no options."""


CONTENT_KNN = Method(
    name="content_knn",
    title="content kNN",
    options=ContentKnnOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.content_knn.model:ContentKnn",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    paper=True,
    search_seed=13,
    summary="It learns nothing: it puts the new items first whose features are most similar to "
    "those of the items that the customer had before.",
)
