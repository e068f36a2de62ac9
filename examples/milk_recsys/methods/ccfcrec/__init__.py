"""Options of CCFCRec and their search space in a study. `model.py` has the equations."""

import dataclasses

from milk_recsys.config.method import Method, count, interval, learning_rate, log_range, option


@dataclasses.dataclass(frozen=True)
class CcfcrecOptions:
    """Options of CCFCRec."""

    lr: float = learning_rate(1e-3)
    contrast_share: float = option(
        0.6, "Share of the contrasts in the loss; the two rankings have the rest.", 0, 1
    )
    tau: float = option(0.1, "Temperature of the contrasts.", above=True)
    num_positives: int = count(
        5, "Number of other items of the user that are positives in the contrast."
    )
    num_negatives: int = count(40, "Number of negatives per positive.")
    weight_decay: float = option(
        1e-4, "Weight decay (Adam, L2 penalty), for a loss that is a mean over the batch."
    )
    batch_size: int = count(1024, "Training pairs in a batch.")
    embedding_dim: int = count(64, "Width of user and item vectors.")


CCFCREC = Method(
    name="ccfcrec",
    title="CCFCRec",
    options=CcfcrecOptions,
    learner="milk_recsys.methods.learner:trained",
    model="milk_recsys.methods.ccfcrec.model:Ccfcrec",
    loop={"epochs": 50, "eval_every": 2, "patience": 5},
    without=("negatives", "features"),
    space={
        "lr": log_range(3e-4, 1e-2),
        "contrast_share": interval(0.1, 0.9),
        "tau": log_range(0.05, 0.5),
        "weight_decay": log_range(1e-6, 1e-3),
    },
    limits={"epochs": 24, "eval_every": 2, "patience": 3},
    paper=True,
    search_seed=10,
)
