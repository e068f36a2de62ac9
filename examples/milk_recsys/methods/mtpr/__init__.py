"""Options of MTPR and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class MtprOptions:
    """Options of MTPR."""

    embedding_lr: float = learning_rate(1e-2, "Learning rate of user and item vectors (Adagrad).")
    lr: float = learning_rate(1e-2, "Learning rate of the maps (Adam).")
    embedding_decay: float = option(
        0.0, "Weight of the squared norms of the user and item vectors, summed over a batch."
    )
    decay: float = option(1e-2, "Weight of the squared norms of the maps, added once per batch.")
    batch_size: int = count(512, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


MTPR = Method(
    name="mtpr",
    title="MTPR",
    options=MtprOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.mtpr.model:Mtpr",
    loop={"epochs": 100, "eval_every": 5, "patience": 3},
    without=("negatives", "features"),
    space={
        "lr": log_range(1e-3, 5e-2),
        "embedding_lr": log_range(1e-3, 1e-1),
        "decay": log_range(1e-4, 5e-2),
    },
    limits={"epochs": 40, "eval_every": 5, "patience": 3},
    paper=True,
    search_seed=7,
)
