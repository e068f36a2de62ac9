"""Options of I3-MRec and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class I3mrecOptions:
    """Options of I3-MRec."""

    lr: float = learning_rate(1e-3)
    penalty_weight: float = option(100.0, "Weight of the variance of the modalities' risks.")
    contrast_weight: float = option(1e-3, "Weight of the contrast between views under two masks.")
    bottleneck_weight: float = option(
        1e-5, "Weight of the bound on the mutual information of a view and its modalities."
    )
    tau: float = option(0.4, "Temperature of the contrast.", above=True)
    dropout: float = option(0.1, "Dropout rate before the mixing matrix.", 0, 1)
    l2: float = option(
        1e-3, "Weight of half the squared norms of a batch's vectors, mean over triples."
    )
    contrast_items: int = count(256, "Number of items of a batch that are contrasted.")
    batch_size: int = count(2048, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


I3MREC = Method(
    name="i3mrec",
    title="I3-MRec",
    options=I3mrecOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.i3mrec.model:I3mrec",
    loop={"epochs": 100, "eval_every": 2, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 1e-2),
        "penalty_weight": log_range(1.0, 300.0),
        "contrast_weight": log_range(1e-3, 1e-1),
        "l2": log_range(1e-4, 1e-2),
    },
    limits={"epochs": 40, "eval_every": 2, "patience": 3},
    search_seed=19,
)
