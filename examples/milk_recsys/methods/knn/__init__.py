"""Options of KNN and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, option


@dataclasses.dataclass(frozen=True)
class KnnOptions:
    """Options of kNN."""

    neighbours: int = option(
        50, "Number of neighbours of a new item per modality; 0: all warm items."
    )


KNN = Method(
    name="knn",
    title="kNN",
    options=KnnOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.knn.model:Knn",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"neighbours": choice(10, 20, 50, 0)},
    search_seed=15,
)
