"""Cosine alignment: angles between the modalities of a sample."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from invmod.alignment.pairs import (
    PairReduction,
    num_pairs,
    prepare_inputs,
    reduce_losses,
    unit_vectors,
)


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
            = p_j - \tfrac12 \Big( \Big\lVert \sum_m a_{jm} u_{jm} \Big\rVert^2
            - \sum_m a_{jm} \lVert u_{jm} \rVert^2 \Big), \qquad u = c / \lVert c \rVert

    where :math:`c_{jm}` is the row of `z` for sample j and modality m, :math:`a_{jm}` is 1 where
    the mask is True, and :math:`p_j` is the number of available pairs of sample j. The second form
    costs O(M) instead of O(M^2). The loss does not depend on the lengths of vectors, so the
    encoders may scale them freely, and shrinking all embeddings does not lower it. A vector of
    length 0 has no direction: its cosine with any other vector is 0, and so is its gradient.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed). None means all.
        weights: (N,) weight of each row, which multiplies both :math:`s_j` and :math:`p_j`. None
            means 1 for every row.
        anchor: compare this modality with each of the others instead of comparing all pairs.
        stop_gradient: detach the anchor, so that it acts as a teacher: the other modalities move
            towards it, and it gets no gradient.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`.
            ``"item_mean"``: :math:`\sum_j w_j s_j / \sum_j w_j`.
            ``"mean"``: :math:`\sum_j w_j s_j / \sum_j w_j p_j`.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair it is a 0
        that is attached to the graph and has zero gradient.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` or the weights have
            a wrong type.
        ValueError: shapes do not fit, `anchor` is not the position of a modality, `stop_gradient`
            is given without `anchor`, or `reduction` is unknown.

    References:
        Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021, Eq. 1, for two
        views.

    Example:
        >>> import torch
        >>> z = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 0.0]]])
        >>> cosine_alignment_loss(z, reduction="none")
        tensor([1., 0.])
        >>> cosine_alignment_loss(z)
        tensor(0.5000)
    """
    function = "cosine_alignment_loss"
    z, mask = prepare_inputs(function, z, mask, anchor, stop_gradient)
    # Unavailable cells of u are 0, so the sums below need no mask of their own.
    u = unit_vectors(z, mask)
    counts = num_pairs(mask, anchor, z.dtype)
    if anchor is None:
        # The squared norm of a sum contains each pair twice and each vector's own square once.
        total = reduce(u, "n m d -> n d", "sum")
        cosines = (total.square().sum(dim=1) - reduce(u.square(), "n m d -> n", "sum")) / 2
    else:
        cosines = (u[:, anchor] * (u.sum(dim=1) - u[:, anchor])).sum(dim=1)
    s = counts - cosines
    return reduce_losses(
        function, s, counts, weights, reduction, ("none", "sum", "item_mean", "mean")
    )
