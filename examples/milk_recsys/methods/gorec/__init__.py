"""Options of GoRec and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, count, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class GorecOptions(FactorOptions):
    """Options of GoRec."""

    lr: float = learning_rate(1e-3)
    uniformity_weight: float = option(0.1, "Weight of the uniformity loss of the latent means.")
    kl_weight: float = option(1e-2, "Weight of the KL divergence of the posterior from the prior.")
    cluster_items: int = count(10, "Average number of items in a cluster.")
    dropout: float = option(0.3, "Dropout rate of the content that the decoder receives.", 0, 1)
    batch_size: int = option(256, "Items in a batch.", low=2)


GOREC = Method(
    name="gorec",
    title="GoRec",
    options=GorecOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.gorec.model:Gorec",
    loop={"epochs": 500, "eval_every": 10, "patience": 3},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 5e-3),
        "uniformity_weight": log_range(1e-3, 10.0),
        "kl_weight": log_range(1e-4, 1.0),
        "cluster_items": choice(4, 8, 20),
    },
    limits={"epochs": 300, "eval_every": 10, "patience": 3},
    paper=True,
    search_seed=12,
)
