"""Options of DropoutNet and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, count, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class DropoutNetOptions(FactorOptions):
    """Options of DropoutNet."""

    lr: float = learning_rate(1e-3, "Learning rate of SGD with momentum 0.9.")
    dropout: float = option(
        0.5,
        "Share of a batch's pairs whose item factors are set to 0, and likewise for user factors.",
        0,
        1,
    )
    hidden: int = count(200, "Width of the hidden layer of each tower.")
    targets: int = count(25, "Number of best items and number of random items per user and epoch.")
    group_size: int = count(100, "Number of users whose pairs are shuffled together.")
    decay_groups: int = count(
        400, "Number of groups of users after which the learning rate is divided by 10."
    )
    batch_size: int = option(250, "Pairs in a batch.", low=2)


DROPOUTNET = Method(
    name="dropoutnet",
    title="DropoutNet",
    options=DropoutNetOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.dropoutnet.model:DropoutNet",
    loop={"epochs": 20, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 3e-3),
        "dropout": choice(0.2, 0.5, 0.8),
        "hidden": choice(64, 128, 256),
    },
    limits={"epochs": 10, "eval_every": 1, "patience": 3},
    paper=True,
    search_seed=6,
)
