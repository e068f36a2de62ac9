"""Options of the random order and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method


@dataclasses.dataclass(frozen=True)
class RandomOptions:
    """The random order has no options."""


RANDOM = Method(
    name="random",
    title="random order",
    options=RandomOptions,
    independent_scores=False,  # They depend on the positions of the candidates.
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.random_order.model:RandomOrder",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    paper=True,
    search_seed=14,
    summary="It learns nothing: it puts the new items in a random order.",
)
