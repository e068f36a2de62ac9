"""Options of MARec and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, log_range, option


@dataclasses.dataclass(frozen=True)
class MarecOptions:
    """Options of MARec's closed form."""

    neighbours: int = option(
        50, "Number of neighbours of a new item per modality; 0: all warm items."
    )
    smoothing: float = option(
        100.0, "Strength of the kernel ridge over users (lambda).", above=True
    )


MAREC = Method(
    name="marec",
    title="MARec",
    options=MarecOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.marec.model:Marec",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    space={"neighbours": choice(10, 20, 50, 0), "smoothing": log_range(10, 300)},
    search_seed=16,
)
