"""Options of DUIF and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class DuifOptions:
    """Options of DUIF."""

    lr: float = learning_rate(1e-3)
    l2: float = option(1e-4, "Weight of the squared norms of a batch's vectors, mean over triples.")
    batch_size: int = count(2048, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


DUIF = Method(
    name="duif",
    title="DUIF",
    options=DuifOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.duif.model:Duif",
    loop={"epochs": 300, "eval_every": 10, "patience": 3},
    without=("negatives", "features"),
    space={"lr": log_range(1e-3, 3e-2), "l2": log_range(1e-5, 5e-3)},
    limits={"epochs": 150, "eval_every": 10, "patience": 3},
    paper=True,
    search_seed=4,
)
