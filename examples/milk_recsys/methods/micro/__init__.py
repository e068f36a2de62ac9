"""Options of MICRO and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class MicroOptions:
    """Options of MICRO."""

    lr: float = learning_rate(5e-4)
    l2: float = option(
        1e-5, "Weight of half the squared norms of a batch's vectors, mean over triples."
    )
    contrast_weight: float = option(
        0.03, "Weight of the contrast between fused and single modalities."
    )
    tau: float = option(0.5, "Temperature of the contrast.", above=True)
    neighbours: int = count(
        10, "Number of edges of an item in the graph of a modality, including one to itself."
    )
    fixed_share: float = option(
        0.9, "Share of the fixed graph; the learned graph has the rest.", 0, 1
    )
    layers: int = option(2, "Number of hops on the graph of users and items.", high=100)
    contrast_items: int = count(
        128, "Number of items contrasted in a step, sampled in each step; at most all items."
    )
    batch_size: int = count(1024, "Number of distinct users in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


MICRO = Method(
    name="micro",
    title="MICRO",
    options=MicroOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.micro.model:Micro",
    loop={"epochs": 30, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(1e-4, 5e-3),
        "l2": log_range(1e-6, 1e-3),
        "contrast_weight": log_range(3e-3, 1.0),
        "tau": log_range(0.1, 1.0),
    },
    limits={"epochs": 12, "eval_every": 1, "patience": 3},
    paper=True,
    search_seed=5,
)
