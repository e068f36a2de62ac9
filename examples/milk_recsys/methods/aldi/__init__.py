"""Options of ALDI and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class AldiOptions(FactorOptions):
    """Options of ALDI."""

    lr: float = learning_rate(1e-3)
    ranking_weight: float = option(
        0.9, "Weight of the distance to the teacher's rankings (the paper's alpha)."
    )
    identification_weight: float = option(
        0.05,
        "Weight of the distance to the teacher's identification of positives (the paper's beta).",
    )
    rating_weight: float = option(
        0.1, "Weight of the distance to the teacher's scores (the paper's gamma)."
    )
    l2: float = option(1e-4, "Weight of half the sum of squares of the weight matrices.")
    hidden: int = count(200, "Width of the hidden layers.")
    batch_size: int = option(1024, "Triples in a batch.", low=2)


ALDI = Method(
    name="aldi",
    title="ALDI",
    options=AldiOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.aldi.model:Aldi",
    loop={"epochs": 30, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 1e-2),
        "ranking_weight": log_range(0.1, 2.0),
        "rating_weight": log_range(0.01, 1.0),
        "l2": log_range(1e-5, 1e-2),
    },
    limits={"epochs": 15, "eval_every": 1, "patience": 3},
    search_seed=21,
)
