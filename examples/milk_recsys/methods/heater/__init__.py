"""Options of Heater and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option
from milk_recsys.methods.factor_options import FactorOptions


@dataclasses.dataclass(frozen=True)
class HeaterOptions(FactorOptions):
    """Options of Heater."""

    lr: float = learning_rate(5e-3, "Learning rate of SGD with momentum 0.9.")
    lr_decay: float = option(
        0.8, "Factor on the learning rate after every --decay-epochs epochs.", 0, 1, above=True
    )
    decay_epochs: int = count(10, "Number of epochs between two decays of the learning rate.")
    similarity_weight: float = option(
        0.1,
        "Weight of the squared distance between encoded content and item vector, mean over pairs.",
    )
    l2: float = option(1e-4, "Weight of the sum of squares of all weights and biases.")
    dropout: float = option(
        0.5,
        "Share of a batch's pairs that use the encoded content instead of the item vector.",
        0,
        1,
    )
    experts: int = count(5, "Number of experts.")
    num_negatives: int = count(5, "Number of negatives per positive.")
    batch_size: int = option(1024, "Pairs in a batch, positive and negative.", low=2)


HEATER = Method(
    name="heater",
    title="Heater",
    options=HeaterOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.heater.model:Heater",
    loop={"epochs": 20, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(1e-3, 2e-2),
        "similarity_weight": log_range(1e-2, 1.0),
        "l2": log_range(1e-5, 1e-3),
    },
    limits={"epochs": 10, "eval_every": 1, "patience": 3},
    paper=True,
    search_seed=8,
)
