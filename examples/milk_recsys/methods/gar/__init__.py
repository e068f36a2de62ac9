"""Options of GAR and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, interval, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class GarOptions(FactorOptions):
    """Options of GAR."""

    lr: float = learning_rate(1e-3, "Learning rate of both networks (Adam).")
    similarity_share: float = option(
        0.5,
        "Share of the distance to the item vectors in the generator's loss (the paper's alpha).",
        0,
        1,
    )
    real_share: float = option(
        0.9, "Weight of real negatives in the recommender's loss (the paper's beta).", 0, 1
    )
    l2: float = option(1e-3, "Weight of half the sum of squares of the weight matrices.")
    hidden: int = count(200, "Width of the hidden layers.")
    batch_size: int = option(1024, "Triples in a batch.", low=2)


GAR = Method(
    name="gar",
    title="GAR",
    options=GarOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.gar.model:Gar",
    loop={"epochs": 30, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 3e-3),
        "similarity_share": interval(0.05, 0.9),
        "real_share": interval(0.05, 0.95),
        "l2": log_range(1e-4, 1e-2),
    },
    limits={"epochs": 12, "eval_every": 1, "patience": 3},
    paper=True,
    search_seed=11,
)
