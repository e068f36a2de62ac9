"""Options of CLCRec and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import (
    Method,
    choice,
    count,
    interval,
    learning_rate,
    log_range,
    option,
)


@dataclasses.dataclass(frozen=True)
class ClcrecOptions:
    """Options of CLCRec."""

    lr: float = learning_rate(2e-3)
    num_negatives: int = count(128, "Number of negatives per positive.")
    tau: float = option(0.5, "Temperature of both contrasts.", above=True)
    content_share: float = option(
        0.5,
        "Share of the item-content contrast; the user-item contrast has the rest.",
        0,
        1,
    )
    replaced: float = option(
        0.5,
        "Share of candidates drawn, with replacement, to use content instead of their vector.",
        0,
        1,
    )
    norm_weight: float = option(0.1, "Weight of the norms of a batch's vectors.")
    hidden: int = count(256, "Width of the encoder's hidden layer.")
    batch_size: int = count(512, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


CLCREC = Method(
    name="clcrec",
    title="CLCRec",
    options=ClcrecOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.clcrec.model:Clcrec",
    loop={"epochs": 30, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(5e-4, 5e-3),
        "num_negatives": choice(64, 128, 256),
        "tau": log_range(0.1, 2.0),
        "content_share": interval(0.1, 0.9),
        "norm_weight": log_range(1e-4, 1e-1),
    },
    limits={"epochs": 15, "eval_every": 1, "patience": 3},
    paper=True,
    search_seed=9,
)
