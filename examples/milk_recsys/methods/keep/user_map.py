"""The map from pairs to vectors in a fitted KEEP: of new users, and of items with first pairs.

With x_u = n_u^-b D_i^-b r_u, the damped pairs r_u (n,) of a user who has n_u of them, the vector of
the user is linear in x_u. In the three forms of the vectors (see `vectors.py`)

    width n:    A_u = x_u                          width U:    A_u = x_u X' P,  P = (K + lambda)^-1
    width r:    A_u = (x_u E) c

The counts D_i of the items are those of the fit, so the vector of a user with the pairs of a user
of the fit is the vector of that user. An inner product <A_u, v> is then a sum over the items of u:

    <A_u, v> = <x_u, g(v)>,     g(v) = v,   E (c v),   X' P v      in these forms.

The vector of an item with the damped column x_c (U,) of pairs is v_c with A v_c = X P_n X' x_c,
where P_n = (X'X + lambda)^-1. For a column of X it is the item's own vector in E.

P and P_n follow from the vectors of the model: I - A = lambda P, and I - E = lambda P_n.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.methods.keep.fitted import ITEM_NAMES, KeepModel
from milk_recsys.methods.keep.pair_sums import StoredPairs
from milk_recsys.methods.keep.pairs import user_sums
from milk_recsys.methods.keep.vectors import gram

__all__ = ["UserMap", "warm_vectors"]


class UserMap:
    """The linear map from the damped pairs of users to their vectors.

    Arguments:
        model: of a single process.

    Attributes:
        offsets, items: int64 (U + 1,) and (P,), the training pairs of the model's users.
    """

    def __init__(self, model: KeepModel) -> None:
        self.model, self.power = model, float(model.options.popularity)
        pairs = StoredPairs.of(model)
        self.items = pairs.items
        self.offsets = F.pad(
            torch.bincount(pairs.users, minlength=pairs.num_users).cumsum(0), (1, 0)
        )
        self._by_items = "items" in model._buffers and "user_items" not in model._buffers
        self._by_users = "item_rows" in model._buffers

    # --- users

    def weights(self, items: Tensor) -> Tensor:
        """Return the entries of x_u at the items of a user; 0 at items without training pairs."""
        counts = self.model.counts[items]
        known = counts > 0
        total = known.sum().clamp(min=1).to(counts)
        damped = (total * counts.clamp(min=1)) ** -self.power
        return torch.where(known, damped, 0)

    @torch.no_grad()
    def vectors(self, offsets: Tensor, items: Tensor) -> Tensor:
        """Return the vectors A (u, r) of users with the given pairs.

        Arguments:
            offsets: int64 (u + 1,), where the pairs of each user begin.
            items: int64 (P,), distinct warm items of each user.
        """
        model, count = self.model, len(offsets) - 1
        users = torch.arange(count, device=items.device).repeat_interleave(offsets.diff())
        kept = model.counts[items] > 0
        users, items = users[kept], items[kept]
        offsets = F.pad(torch.bincount(users, minlength=count).cumsum(0), (1, 0))
        if not (self._by_items or self._by_users):
            scales = model.counts.clamp(min=1) ** -self.power
            every, vectors = torch.arange(count, device=items.device), model.get_buffer("items")
            damping = model.get_buffer("damping")
            sums = user_sums(every, offsets, items, scales, damping, vectors)
            return sums * model.get_buffer("user_factors")
        x = model.counts.new_zeros(count, len(model.counts))
        total = offsets.diff()[users].to(x)
        x[users, items] = (total * model.counts[items]) ** -self.power
        if self._by_items:
            return x
        k = torch.sparse.mm(self._x, x.T).T
        return self._times_inverse(k)

    @torch.no_grad()
    def item_weights(self, vectors: Tensor) -> Tensor:
        """Return g(v) (k, n) of item vectors (k, r)."""
        if self._by_items:
            return vectors
        if self._by_users:
            return torch.sparse.mm(self._x.t().coalesce(), self._times_inverse(vectors).T).T
        model = self.model
        return (vectors * model.get_buffer("user_factors")) @ model.get_buffer("items").T

    # --- items

    @torch.no_grad()
    def item_vectors(self, columns: Tensor) -> Tensor:
        """Return the vectors (k, r) of items with the damped columns (U, k) of pairs, sparse."""
        model = self.model
        if self._by_users:
            return columns.to_dense().T
        sums = torch.sparse.mm(columns.t().coalesce(), model.user_vectors(None))
        if self._by_items:
            return self._times_inverse(sums)
        # S of each direction from E = B S^3 / (S^2 + lambda) and c = (S^2 + lambda) / S^4.
        factors, lengths = model.get_buffer("user_factors"), model.get_buffer("items").norm(dim=0)
        return sums * (factors * lengths.square())

    # --- helpers

    @functools.cached_property
    def _x(self) -> Tensor:
        """X (U, n), sparse, of the form of width U."""
        rows, columns, values = (self.model.get_buffer(name) for name in ITEM_NAMES[1])
        size = (self.model.dim, len(self.model.counts))
        return torch.sparse_coo_tensor(
            torch.stack([columns, rows]), values, size, check_invariants=False
        ).coalesce()

    @property
    def _smoothed(self) -> Tensor:
        """I - lambda P, a square matrix: E in the form of width n, A in that of width U."""
        if self._by_items:
            return self.model.get_buffer("items")
        return self.model.user_vectors(None)

    @functools.cached_property
    def _shift(self) -> float:
        """Lambda, which is in the model only relative to singular values.

        With T = G (G + lambda)^-1, tr(G) - tr(T G) = lambda tr(T), where G = X'X, or K = X X'.
        """
        smoothed = self._smoothed
        x = self.model.user_vectors(None).to_sparse() if self._by_items else self._x.t()
        products = gram(x.coalesce())
        between = (smoothed * products).sum()
        return float((products.trace() - between) / smoothed.trace())

    def _times_inverse(self, rows: Tensor) -> Tensor:
        """Return rows P (k, w)."""
        return (rows - rows @ self._smoothed) / self._shift


@torch.no_grad()
def warm_vectors(model: KeepModel) -> Tensor:
    """Return the vectors (n, r) of the warm items, on the scale of those of new items.

    They are E, with the factor of the popularity d_i^c, of which new items have a prediction.
    """
    if "items" in model._buffers:
        vectors = model.get_buffer("items")
    else:
        rows, columns, values = (model.get_buffer(name) for name in ITEM_NAMES[1])
        vectors = values.new_zeros(len(model.counts), model.dim)
        vectors[rows, columns] = values
    return vectors * (model.exponent * model.centred_logs()).exp()
