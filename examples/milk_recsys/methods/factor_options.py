"""Options of the matrix factorisation that several methods start from."""

import dataclasses

from milk_recsys.config.method import count, learning_rate, option

__all__ = ["FactorOptions"]


@dataclasses.dataclass(frozen=True)
class FactorOptions:
    """Of the matrix factorisation behind frozen user and item vectors."""

    factor_lr: float = learning_rate(5e-3, "Learning rate of the matrix factorisation (Adam).")
    factor_l2: float = option(1e-3, "Weight of its squared norms, mean over triples.")
    factor_epochs: int = count(
        200, "Its most epochs; 5% of the training pairs, held out, stop it early."
    )
    factor_batch_size: int = count(2048, "Training pairs in one of its batches.")
    embedding_dim: int = count(64, "Width of user and item vectors.")
