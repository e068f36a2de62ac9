"""Options of DGMRec and their search space in a study. `model.py` has the equations."""

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
class DgmrecOptions:
    """Options of DGMRec."""

    lr: float = learning_rate(1e-3)
    contrast_weight: float = option(1e-2, "Weight of the contrastive losses.")
    tau_general: float = option(
        0.3, "Temperature of the contrasts between the shared parts of modalities.", above=True
    )
    tau: float = option(0.15, "Temperature of all other contrasts.", above=True)
    translation_weight: float = option(
        0.5, "Weight of the translation of a modality's shared part from the other modalities."
    )
    l2: float = option(
        1e-5, "Weight of half the squared norms of a batch's vectors, mean over triples."
    )
    fused_l2: float = option(
        1e-1, "Weight of half the squared norms of the content parts, mean over triples."
    )
    neighbours: int = count(
        10, "Number of edges of an item in the graph of a modality, including one to itself."
    )
    layers: int = option(1, "Number of hops on the graphs of the modalities.", 1, 100)
    contrast_pairs: int = count(512, "Number of pairs of a batch that are contrasted.")
    batch_size: int = count(2048, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


DGMREC = Method(
    name="dgmrec",
    title="DGMRec",
    options=DgmrecOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.dgmrec.model:Dgmrec",
    loop={"epochs": 100, "eval_every": 2, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 1e-2),
        "contrast_weight": log_range(1e-3, 1e-1),
        "translation_weight": interval(0.1, 1.0),
        "layers": choice(1, 2),
    },
    limits={"epochs": 40, "eval_every": 2, "patience": 3},
    search_seed=20,
)
