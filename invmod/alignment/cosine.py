"""Angles between the modalities of a sample."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from invmod.alignment.pairs import PairReduction, checked, num_pairs, reduced, unit_vectors


def cosine_alignment_loss(
    z: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    anchor: int | None = None,
    stop_gradient: bool = False,
    reduction: PairReduction = "mean",
) -> Tensor:
    r"""One minus the cosine, between all pairs of available modalities.

    .. math::
        s_j = \sum_{m < m'} a_{jm} a_{jm'} (1 - u_{jm}^\top u_{jm'})
            = p_j - \tfrac12 \Big( \Big\lVert \sum_m a_{jm} u_{jm} \Big\rVert^2 - \sum_m a_{jm} \lVert u_{jm} \rVert^2
            \Big), \qquad u = c / \lVert c \rVert

    with :math:`p_j` the pairs that are there: O(M), not O(M^2). Lengths do not count, so a modality is free in how sure
    it is, and nothing is gained by shrinking all embeddings. A vector of length 0 has no direction: its cosine with any
    other is 0, and its gradient 0.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed); all where None.
        weights: (N,), how much a row counts, by which both :math:`s_j` and :math:`p_j` are multiplied; all 1 where
            None.
        anchor: compare this modality with each of the others, not all pairs.
        stop_gradient: hold the anchor fixed: it is a teacher, which is not drawn to the others.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`.
            ``"item_mean"``: :math:`\sum_j w_j s_j / \sum_j w_j`. ``"mean"``: :math:`\sum_j w_j s_j / \sum_j w_j p_j`.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair it is a 0 that is attached to
        the graph, with zero gradient.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` or the weights are of a wrong type.
        ValueError: shapes do not fit, an anchor outside the modalities, a stop without an anchor, or an unknown
            reduction.

    References:
        Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021, Eq. 1, for two views.

    Example:
        >>> import torch
        >>> z = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 0.0]]])
        >>> cosine_alignment_loss(z, reduction="none")
        tensor([1., 0.])
        >>> cosine_alignment_loss(z)
        tensor(0.5000)
    """
    function = "cosine_alignment_loss"
    z, mask = checked(function, z, mask, anchor, stop_gradient)
    u = unit_vectors(z, mask)
    counts = num_pairs(mask, anchor, z.dtype)
    if anchor is None:
        total = reduce(u, "n m d -> n d", "sum")
        cosines = (total.square().sum(dim=1) - reduce(u.square(), "n m d -> n", "sum")) / 2
    else:
        cosines = (u[:, anchor] * (u.sum(dim=1) - u[:, anchor])).sum(dim=1)
    s = counts - cosines
    return reduced(function, s, counts, weights, reduction, ("none", "sum", "item_mean", "mean"))
