"""Options of the matrix factorisation whose vectors several methods start from."""

import dataclasses

from milk_recsys.config.method import count, learning_rate, option

__all__ = ["FactorOptions"]


@dataclasses.dataclass(frozen=True)
class FactorOptions:
    """Options of the matrix factorisation that provides frozen user and item vectors."""

    factor_lr: float = learning_rate(5e-3, "Learning rate of the matrix factorisation (Adam).")
    factor_l2: float = option(
        1e-3, "Weight of the squared norms in the matrix factorisation, mean over triples."
    )
    factor_epochs: int = count(
        200,
        "Maximum number of epochs of the matrix factorisation. "
        "It stops early on 5% of the training pairs, which it holds out.",
    )
    factor_batch_size: int = count(2048, "Training pairs in a batch of the matrix factorisation.")
    embedding_dim: int = count(64, "Width of user and item vectors.")
