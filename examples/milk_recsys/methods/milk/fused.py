"""A training step in closed form, in matrix products and compiled loops, without autograd.

`objective.batch_sums` and `objective.objective` compute the same terms from parts of invmod; tests
compare the terms and their gradients.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod import invariant_objective, vrex_penalty
from invmod.objectives import vrex_coefficients
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import PreparedRows, item_shares
from milk_recsys.methods.milk.model import Recommender

__all__ = ["FusedObjective", "Grouped", "compiles"]


def compiles(options: MilkOptions, dtype: str, device: torch.device) -> bool:
    """Return whether steps run in compiled loops.

    They do on a CPU where Numba is installed, except with --kernels torch, with
    --training-fusion available and with --dtype bfloat16.

    Raises:
        DataError: the options require compiled loops (--kernels numba), which cannot be used.
    """
    if options.kernels == "torch":
        return False
    problems = {
        "Numba is not installed (pip install 'invmod[fast]')": find_spec("numba") is None,
        f"it compiles for the CPU, and the device is {device.type}": device.type != "cpu",
        f"it does not support --training-fusion {options.training_fusion}": options.training_fusion
        != "imputed",
        "it does not support --dtype bfloat16": dtype == "bfloat16",
    }
    obstacles = [problem for problem, holds in problems.items() if holds]
    if obstacles and options.kernels == "numba":
        raise DataError(f"--kernels numba cannot be used: {obstacles[0]}. Use auto or torch.")
    return not obstacles


class Grouped(NamedTuple):
    """A batch, or a rank's part of one, with its b triples grouped by user.

    Attributes:
        users: (k,) the distinct users; firsts: (k,) the first position of each in the batch.
        user_starts, user_of, items, rows, item_starts, entries: those of
            `index_kernels.index_batch`, without unused entries.
        num_positives: number of distinct positive items.
        shares: (p,) weights of the positive items in the alignment, as in `TripleBatch`; (0,) if
            the objective has no alignment.
    """

    users: NDArray[np.int64]
    firsts: NDArray[np.int64]
    user_starts: NDArray[np.int64]
    user_of: NDArray[np.int64]
    items: NDArray[np.int64]
    rows: NDArray[np.int64]
    item_starts: NDArray[np.int64]
    entries: NDArray[np.int64]
    num_positives: int
    shares: NDArray[np.float64]


class FusedObjective:
    """The terms of the objective on a batch, and their gradient, in compiled loops.

    Autograd over separate operations would read and write the encoded rows once per operation. The
    gradients of alignment and regulariser do not depend on the values of these terms, so one pass
    over the items computes both.

    Arguments:
        model: its encoders receive gradients.
        prepared: the prepared features of items.
        world: the processes that share each batch.

    Attributes:
        by_weights, by_biases: the gradients of the encoders, overwritten by every call of `terms`.
    """

    def __init__(
        self,
        model: Recommender,
        tables: Tables,
        prepared: PreparedRows,
        options: MilkOptions,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.prepared, self.options, self.world = prepared, options, world
        encoders: Any = list(model.encoders.encoders)
        self.weights = [encoder.weight.detach() for encoder in encoders]
        self.biases = [encoder.bias.detach() for encoder in encoders]
        self.by_weights = [torch.zeros_like(w) for w in self.weights]
        self.by_biases = [torch.zeros_like(b) for b in self.biases]
        self.by_bias = np.zeros((len(encoders), len(self.biases[0])))
        self.mask, self.aligns = tables.mask.numpy(), options.aligns
        self.complete = options.alignment_mask == "complete"
        self.row_of_item = np.full(len(self.mask), -1, np.int32)
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, rows: int, *shape: int) -> Tensor:
        """Return memory that the next call with this name overwrites, (rows, *shape)."""
        old = self.buffers.get(name)
        if old is None or len(old) < rows or old.shape[1:] != shape:
            # Zeros, so that the memory of equal runs is equal.
            old = self.buffers[name] = self.weights[0].new_zeros(rows + rows // 8, *shape)
        return old[:rows]

    def group(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        row_of_user: NDArray[np.int32],
        whole: Tensor | None = None,
    ) -> Grouped:
        """Group a batch's triples by user, and number its distinct users and items.

        Arguments:
            users, positives, negatives: (b,) ids.
            row_of_user: scratch space with an entry for each user, filled with -1 on entry and on
                return.
            whole: the positives of the whole batch if other ranks have parts of it, else None.
        """
        from milk_recsys.methods.milk.index_kernels import index_batch

        size = len(users)
        ids, firsts, user_of = np.empty((3, size), np.int64)
        items, entries = np.empty((2, 2 * size), np.int64)
        user_starts, item_starts = np.empty(size + 1, np.int64), np.empty(2 * size + 1, np.int64)
        rows = np.empty((size, 2), np.int64)
        k, p, n = index_batch(
            users.numpy(), positives.numpy(), negatives.numpy(), row_of_user, self.row_of_item, ids,
            user_starts, user_of, firsts, items, rows, item_starts, entries,
        )  # fmt: skip
        shares = np.ones(p if self.aligns else 0)
        if self.aligns and whole is not None:
            counts = torch.from_numpy(np.bincount(rows[:, 0], minlength=p))
            shares = item_shares(torch.from_numpy(items[:p]), counts, whole).numpy()
        return Grouped(
            ids[:k], firsts[:k], user_starts[: k + 1], user_of, items[:n], rows,
            item_starts[: n + 1], entries, p, shares,
        )  # fmt: skip

    def terms(
        self, u: Tensor, batch: Grouped, weights: Tensor, size: int
    ) -> tuple[Tensor, NDArray[np.floating[Any]]]:
        """Compute the terms of the whole batch, and this rank's part of the gradient of the loss.

        Arguments:
            u: (k, D) rows of the distinct users.
            weights: (E, M) fusion weights.
            size: number of triples of the whole batch.

        Returns:
            `objective.Terms` as one tensor (5,), float64, and the gradient by u, which the next
            call overwrites. The term of the regulariser "parameters" is left out.
        """
        from milk_recsys.methods.milk import kernels

        options, rows, c = self.options, u.numpy(), self.encode(batch).numpy()
        fusion, num_triples = weights.numpy(), len(batch.rows)
        scores = self.buffer("scores", num_triples, len(self.weights)).numpy()
        sigmoids = self.buffer("sigmoids", num_triples, len(fusion)).numpy()
        losses = np.empty(len(fusion))
        kernels.score_triples(rows, c, batch.user_of, batch.rows, scores)
        kernels.losses_of(scores, fusion, sigmoids, losses)
        pairs = self.divisor(batch)
        if self.world.size > 1:
            total = self.world.sum(torch.from_numpy(np.append(losses, pairs))).numpy()
            losses, pairs = total[:-1], float(total[-1])
        risk, mean, penalty, by_risks = self.risk(losses / size)
        kernels.slopes_of(sigmoids, fusion, by_risks / size, scores)  # Scores are not read again.
        regularised = options.regulariser == "batch"
        by_sums = (options.alignment_weight / (pairs or 1.0), options.regulariser_weight / size)
        by_u = self.buffer("by_u", len(u), u.shape[1]).numpy()
        squares = kernels.backward_users(
            rows, c, batch.user_starts, batch.rows, scores, by_sums[1], regularised, by_u
        )
        by_c = self.buffer("by_c", *c.shape)
        bias = torch.stack(self.biases).numpy()
        distances, more = kernels.backward_items(
            rows, c, bias, batch.user_of, batch.items, batch.item_starts, batch.entries,
            scores, self.mask, self.complete, batch.shares, by_sums, regularised, by_c.numpy(),
            self.by_bias,
        )  # fmt: skip
        sums = torch.tensor([distances, squares + more], dtype=torch.float64)
        distances, squares = self.world.sum(sums).tolist()
        self.by_parameters(by_c)
        alignment, regulariser = distances / (pairs or 1.0), squares / size
        loss = risk + options.alignment_weight * alignment
        loss += options.regulariser_weight * regulariser
        terms = [loss, mean, penalty, alignment, regulariser]
        return torch.tensor(terms, dtype=torch.float64), by_u

    def encode(self, batch: Grouped) -> Tensor:
        """Return the encoded items without the encoders' biases, (n, M, D)."""
        self.features = list(self.prepared(torch.from_numpy(batch.items)).values())
        c = self.buffer("c", len(batch.items), *self.by_bias.shape)
        for m, (x, weight) in enumerate(zip(self.features, self.weights, strict=True)):
            # Products are faster if the smaller factor is contiguous and the larger is on the left.
            torch.mm(x, weight.t().contiguous(), out=c[:, m])
        return c

    def by_parameters(self, by_c: Tensor) -> None:
        """Write the gradients of the encoders, from that by the encoded items (n, M, D)."""
        for m, (x, by_weight) in enumerate(zip(self.features, self.by_weights, strict=True)):
            by_weight.copy_(torch.mm(x.t(), by_c[:, m]).t())
            self.by_biases[m].numpy()[:] = self.by_bias[m]

    def divisor(self, batch: Grouped) -> float:
        """Return the divisor of the alignment, as `objective.alignment_pairs` does."""
        from milk_recsys.methods.milk.index_kernels import count_pairs

        reduction = self.options.alignment_reduction
        if not self.aligns or reduction == "sum":
            return 0.0
        if reduction == "item_mean":
            return float(batch.shares.sum())
        pairs = count_pairs(batch.items, self.mask, self.complete, batch.shares)
        return pairs * (self.options.embedding_dim if reduction == "element_mean" else 1)

    def risk(self, risks: NDArray[np.float64]) -> tuple[float, float, float, NDArray[np.float64]]:
        """Return the first two terms of Eq. 16, the mean risk, the penalty, and their gradient."""
        options, given = self.options, torch.from_numpy(risks)
        weight, correction = 0.0, 0
        penalty = given.new_zeros(())
        if options.has_envs:
            weight, correction = options.penalty_weight, options.variance_correction
            penalty = vrex_penalty(given, correction=correction)
        reduction = options.risk_reduction
        base = invariant_objective(
            given, penalty=penalty, penalty_weight=weight, risk_reduction=reduction
        )
        gradient = vrex_coefficients(
            given, penalty_weight=weight, correction=correction, risk_reduction=reduction
        )
        return float(base), float(risks.mean()), float(penalty), gradient.numpy()
