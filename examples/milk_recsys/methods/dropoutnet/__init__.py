"""Options of DropoutNet and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, count, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class DropoutNetOptions(FactorOptions):
    """Options of DropoutNet."""

    lr: float = learning_rate(1e-3, "Learning rate of SGD with momentum .9.")
    dropout: float = option(
        0.5,
        "Share of a batch's pairs that lose their item's vector, and of those that lose their user's.",
        0,
        1,
    )
    hidden: int = count(200, "Width of the one hidden layer of each tower.")
    targets: int = count(
        25, "Items a user is trained on in an epoch: so many of the best, and so many at random."
    )
    group_size: int = count(100, "Users whose pairs are shuffled together.")
    decay_groups: int = count(400, "Groups after which the learning rate falls to a tenth.")
    batch_size: int = count(250, "Pairs in a batch.")


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
