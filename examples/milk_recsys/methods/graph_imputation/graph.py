"""Graph of items that users have in common, and means of features over it.

J (n, n) has J_ij = 1 for the item i itself and for the up to k - 1 items j that share most users
with i, and 0 otherwise; items that share no user with i are never among them. A missing row of item
i is filled with

    x_i = sum_j W_ij a_j x_j / sum_j W_ij a_j

where a_j is 1 if item j has the modality and W are non-negative weights of the diffusion:

    neigh_mean    W = J
    multi_hop     x <- S x / S a and a <- S a in each of L layers, S = D^-1/2 (J - I) D^-1/2; rows
                  of items that have the modality are reset before each layer
    pagerank      W = 0.1 sum_t 0.9^t H^t = 0.1 (I - 0.9 H)^-1, H = D'^-1 (J + I)
    heat          W = e^-5 sum_t 5^t H^t / t! = exp(-5 (I - H))

where D and D' are the sums of the rows of J - I and of J + I. Of each row of the last two, the k
largest weights are kept. Because of the denominator, neighbours that lack the modality as well do
not draw a row to 0, and an item whose neighbours all have the same row receives this row.

References:
    Training-free graph-based imputation of missing modalities, arXiv:2602.17354, and its
    repository sisinflab/Graph-Missing-Modalities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.methods.closed_form import interactions
from milk_recsys.methods.graphs import csr_and_transpose
from milk_recsys.methods.warm import WarmData

__all__ = ["diffusion_weights", "fill_rows", "multi_hop", "neighbour_graph"]

BLOCK = 512  # Number of items whose neighbours or weights are computed at once.
# Most training items for a diffusion by walks, whose cost grows with their square.
MAX_WALK_ITEMS = 50_000
RESTART, TEMPERATURE = 0.1, 5.0
# The series end where the sum of the remaining weights is below this, of a total of 1.
TOLERANCE = 1e-3


def neighbour_graph(data: WarmData, k: int, dtype: torch.dtype) -> Tensor:
    """Return the graph J as a sparse coalesced matrix (n, n) with values 1."""
    pairs, n = interactions(data, dtype), data.num_items
    transposed = pairs.t().coalesce()
    rows, columns = [], []
    for block in torch.arange(n, device=data.device).split(BLOCK):
        # Number of users that each item (n,) shares with each item of the block.
        shared = torch.sparse.mm(transposed, pairs.index_select(1, block).to_dense())
        # The item itself comes first, also if it has no pair.
        shared[block, torch.arange(len(block), device=data.device)] = math.inf
        values, nearest = shared.topk(min(k, n), dim=0)
        rows.append(block.expand_as(nearest)[values > 0])
        columns.append(nearest[values > 0])
    indices = torch.stack([torch.cat(rows), torch.cat(columns)])
    ones = torch.ones(indices.shape[1], dtype=dtype, device=data.device)
    return _sparse(indices, ones, (n, n)).coalesce()


def _sparse(indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)


def fill_rows(weights: Tensor, rows: Tensor, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Fill missing rows of a modality by weighted means of the rows that are known.

    Arguments:
        weights: W, sparse (r, n), non-negative.
        rows: (r,) the items that the rows of W belong to.
        x: (n, d) features, 0 where the item lacks the modality.
        known: (n,) bool, where it has it.

    Returns:
        the filled features (n, d), and whether each row is known or filled (n,). A row without a
        known neighbour stays 0.
    """
    total = torch.sparse.mm(weights, known[:, None].to(x.dtype))
    means = torch.sparse.mm(weights, x) / total.clamp(min=torch.finfo(x.dtype).tiny)
    filled, usable = x.clone(), known.clone()
    missing = ~known[rows]
    filled[rows[missing]] = means[missing]
    usable[rows[missing]] = total[missing, 0] > 0
    return filled, usable


def multi_hop(graph: Tensor, x: Tensor, known: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Fill missing rows of a modality from items up to `layers` hops away; see `fill_rows`."""
    rows, columns = graph.indices()
    off = rows != columns
    rows, columns = rows[off], columns[off]
    # An item without neighbours has no edge, and its degree is not used.
    scale = torch.bincount(rows, minlength=len(x)).clamp(min=1).to(x.dtype).rsqrt()
    step, _ = csr_and_transpose(
        _sparse(torch.stack([rows, columns]), scale[rows] * scale[columns], (len(x), len(x)))
    )
    # The last column is the weight of the known rows that a row is a sum of.
    given = torch.cat([x, known[:, None].to(x.dtype)], dim=1)
    state = given
    for _ in range(layers):
        state = torch.where(known[:, None], given, step @ state)
    total = state[:, -1:]
    filled = state[:, :-1] / total.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(known[:, None], x, filled), total[:, 0] > 0


def diffusion_weights(graph: Tensor, rows: Tensor, diffusion: str, k: int) -> Tensor:
    """Return the rows W_i of the given items (r,), sparse (r, n), for all but `multi_hop`.

    Raises:
        DataError: there are more than `MAX_WALK_ITEMS` items, and `diffusion` is one by walks.
    """
    if diffusion == "neigh_mean":
        return graph.index_select(0, rows).coalesce()
    n = graph.shape[0]
    if n > MAX_WALK_ITEMS:
        raise DataError(
            f"--diffusion {diffusion} walks from each item to all others, which is too much for "
            f"{n:,} training items, more than {MAX_WALK_ITEMS:,}. Choose neigh_mean or multi_hop."
        )
    i, j = graph.indices()
    # J + I has 2 on its diagonal, because each item is its own neighbour in J.
    values = graph.values() + (i == j)
    values = values / torch.zeros(n, dtype=values.dtype, device=i.device).index_add(0, i, values)[i]
    # Rows of H^t are columns of the powers of H', which products from the left give.
    _, walk = csr_and_transpose(_sparse(graph.indices(), values, (n, n)))
    parts = [torch.zeros(2, 0, dtype=torch.int64, device=i.device)]
    weights = [values[:0]]
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        places = torch.arange(len(block), device=i.device)
        visits = torch.zeros(n, len(block), dtype=values.dtype, device=i.device)
        visits[block, places] = 1
        total = _series(walk, visits, _coefficients(diffusion))
        kept, nearest = total.topk(min(k, n), dim=0)
        reached = kept > 0
        parts.append(torch.stack([(start + places).expand_as(nearest)[reached], nearest[reached]]))
        weights.append(kept[reached])
    return _sparse(torch.cat(parts, dim=1), torch.cat(weights), (len(rows), n)).coalesce()


def _series(walk: Tensor, visits: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return sum_t c_t A^t v of a sparse matrix A (n, n) and v (n, b)."""
    total = visits * coefficients[0]
    for coefficient in coefficients[1:]:
        visits = walk @ visits
        total.add_(visits, alpha=coefficient)
    return total


def _coefficients(diffusion: str) -> list[float]:
    """Return the weights c_t of walks of t steps, until the rest is below `TOLERANCE`."""
    coefficients: list[float] = []
    while 1 - sum(coefficients) > TOLERANCE:
        t = len(coefficients)
        coefficients.append(
            RESTART * (1 - RESTART) ** t
            if diffusion == "pagerank"
            else math.exp(-TEMPERATURE + t * math.log(TEMPERATURE) - math.lgamma(t + 1))
        )
    return coefficients
