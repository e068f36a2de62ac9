"""Options of SiBraR and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, choice, count, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class SibrarOptions:
    """Options of SiBraR."""

    lr: float = learning_rate(1e-3)
    weight_decay: float = option(1e-4, "Weight decay (AdamW).")
    num_negatives: int = count(10, "Number of negatives per positive.")
    contrast_weight: float = option(
        1e-5, "Weight of the contrast between two sampled modalities; 0: sample one modality only."
    )
    tau: float = option(0.5, "Temperature of the contrast.", above=True)
    width: int = count(128, "Width of the maps and of the branch.")
    layers: int = option(2, "Number of linear layers of the branch.", 1, 100)
    batch_size: int = count(256, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


SIBRAR = Method(
    name="sibrar",
    title="SiBraR",
    options=SibrarOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.sibrar.model:Sibrar",
    loop={"epochs": 30, "eval_every": 1, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 1e-2),
        "weight_decay": log_range(1e-6, 1e-2),
        "contrast_weight": choice(0.0, 1e-5, 1e-4, 1e-3),
        "width": choice(64, 128, 256),
    },
    limits={"epochs": 20, "eval_every": 1, "patience": 3},
    search_seed=18,
)
