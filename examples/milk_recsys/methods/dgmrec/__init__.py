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
    contrast_weight: float = option(1e-2, "Weight of the contrasts.")
    tau_general: float = option(0.3, "Temperature between modalities' shared parts.", above=True)
    tau: float = option(0.15, "Temperature of the other contrasts.", above=True)
    translation_weight: float = option(
        0.5, "Weight of translating one modality's shared part from the others'."
    )
    l2: float = option(
        1e-5, "Weight of half the squared norms of a batch's vectors, mean over triples."
    )
    fused_l2: float = option(1e-1, "The same of their content.")
    neighbours: int = count(10, "Edges of each item in a modality's graph, itself included.")
    layers: int = count(1, "Hops on these graphs.")
    contrast_pairs: int = count(512, "Pairs of a batch that are contrasted.")
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
