"""Pairwise alignment: squared distances between the modalities of a sample (MILK, Eq. 6)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import reduce
from torch import Tensor
from typing_extensions import override

from invmod.alignment.pairs import num_pairs, pairs_among, prepare_inputs, reduce_losses

Reduction = Literal["none", "sum", "item_mean", "mean", "element_mean"]
REDUCTIONS = ("none", "sum", "item_mean", "mean", "element_mean")


def pairwise_alignment_loss(
    z: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    anchor: int | None = None,
    stop_gradient: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distances between all pairs of available modalities.

    .. math::
        s_j = \sum_{m < m'} a_{jm} a_{jm'} \lVert c_{jm} - c_{jm'} \rVert^2
            = n_j \sum_m a_{jm} \lVert c_{jm} - \bar c_j \rVert^2,
        \qquad
        p_j = \sum_{m < m'} a_{jm} a_{jm'} = n_j (n_j - 1) / 2

    where :math:`c_{jm}` is the row of `z` for sample j and modality m, :math:`a_{jm}` is 1 where
    the mask is True, :math:`n_j` is the number of available modalities of sample j,
    :math:`\bar c_j` is their mean, and :math:`p_j` is the number of available pairs. The second
    form costs O(M) instead of O(M^2).

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample, such as the embeddings
            that a model computes from it under V masks.
        mask: bool (N, M), the modalities that were *observed* (not imputed). None means all.
        weights: (N,) non-negative weight of each row (the sign is not checked), which multiplies
            both :math:`s_j` and :math:`p_j`. None means 1 for every row. A row of weight 2 counts
            as much as two copies of it. If every row has the weight "one over its number of
            copies", each distinct row counts once, however the copies are split over processes.
        anchor: compare this modality, k, with each of the others instead of comparing all pairs:
            :math:`s_j = \sum_{m \neq k} a_{jk} a_{jm} \lVert c_{jk} - c_{jm} \rVert^2`.
        stop_gradient: detach the anchor, so that it acts as a teacher: the other modalities move
            towards it, and it gets no gradient.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`, exactly Eq. 6.
            ``"item_mean"``: :math:`\sum_j w_j s_j / \sum_j w_j`, a division by N without weights.
            ``"mean"``: :math:`\sum_j w_j s_j / \sum_j w_j p_j`. ``"element_mean"``: ``"mean"`` / D,
            the scale of the authors' released code for two modalities.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair (no rows,
        one modality, or all weights 0) it is a 0 that is attached to the graph and has zero
        gradient. It can be differentiated any number of times, in reverse and in forward mode.

    Raises:
        TypeError: z is not floating point, the mask is not bool, `anchor` is not an int, or the
            weights are not a tensor of real numbers.
        ValueError: shapes do not fit, `anchor` is not the position of a modality, `stop_gradient`
            is given without `anchor`, or `reduction` is unknown.

    References:
        Bai et al., SIGIR 2024, Eq. 6.

    Example:
        >>> z = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 2.0]]])
        >>> pairwise_alignment_loss(z, reduction="none")
        tensor([25.,  1.])
        >>> pairwise_alignment_loss(z)
        tensor(13.)
        >>> pairwise_alignment_loss(z, torch.tensor([[True, False], [True, True]]))
        tensor(1.)
    """
    function = "pairwise_alignment_loss"
    z, mask = prepare_inputs(function, z, mask, anchor, stop_gradient)
    if anchor is None:
        # Counting the available modalities again in `num_pairs` would cost up to 7% of the loss.
        s, n = _scatter(z, mask)
        counts = pairs_among(n)
    else:
        s, counts = _from_anchor(z, mask, anchor), num_pairs(mask, anchor, z.dtype)
    if reduction == "element_mean":
        mean = reduce_losses(function, s, counts, weights, "mean", REDUCTIONS)
        return mean / max(z.shape[2], 1)
    return reduce_losses(function, s, counts, weights, reduction, REDUCTIONS)


def _from_anchor(z: Tensor, mask: Tensor, anchor: int) -> Tensor:
    """Return the squared distances to the anchor, summed over the available modalities: (N,)."""
    both = mask & mask[:, anchor, None]
    differences = torch.where(both[..., None], z, 0.0) - torch.where(
        both[..., None], z[:, anchor, None], 0.0
    )
    return reduce(differences.square(), "n m d -> n", "sum")


def _scatter(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return s (N,), the squared distances summed over pairs, and n (N,), the available counts."""
    n = mask.sum(dim=1).to(z.dtype)
    if z.shape[1] == 1:
        # There is no pair: return a 0 that is attached to the graph. Selecting gives 0 whatever z
        # holds, while 0 * inf would be NaN.
        return torch.where(torch.zeros_like(mask)[:, :, None], z, 0.0).sum(dim=(1, 2)), n
    if torch.compiler.is_compiling():
        # A compiler fuses the plain formula and its gradient without the autograd function below.
        return _deviations(torch.where(mask[:, :, None], z, 0.0), mask, n)[0], n
    return _Scatter.apply(z, mask, n)[0], n  # type: ignore[no-untyped-call]


def _deviations(available: Tensor, mask: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return s (N,) and d (N, M, D); d overwrites `available`.

    .. math::
        d_m = a_m (c_m - \bar c), \qquad s = n \sum_m \lVert d_m \rVert^2

    where :math:`a_m` is the mask, :math:`c_m` is a modality's vector, :math:`\bar c` is the mean
    over the available modalities and n is their number. Sums over M run modality by modality: on a
    CPU this is faster than a reduction, and it allocates no second tensor of the size of z.
    """
    first, *others = available.unbind(1)
    mean = sum(others, first) / n.clamp(min=1)[:, None]
    d = available.sub_(mean[:, None, :]).mul_(mask[:, :, None])
    return n * sum((x.square().sum(dim=1) for x in d.unbind(1)), torch.zeros_like(n)), d


class _Scatter(torch.autograd.Function):
    r"""`_deviations` with its gradient in closed form: one pass over (N, M, D).

    .. math::
        \frac{\partial s}{\partial c_m} = 2 n \, d_m

    The derivative of the mean drops out, because the deviations sum to 0. The deviations d are a
    second output, so that the gradient can be differentiated again. Taking deviations is an
    orthogonal projection, hence its own adjoint: the backward pass of d is this function again.
    """

    generate_vmap_rule = True

    @staticmethod
    @override
    def forward(z: Tensor, mask: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and d."""
        if z.shape[1] == 2:
            # With two modalities the deviations are plus and minus half the difference, which
            # takes half the time of the general formula.
            half = _zero_masked((z[:, 0] - z[:, 1]) / 2, mask.all(dim=1))
            return 2 * n * half.square().sum(dim=1), torch.stack([half, -half], dim=1)
        return _deviations(_zero_masked(z, mask), mask, n)

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save the deviations; keep an absent gradient None instead of a tensor of zeros."""
        ctx.save_for_backward(output[1], *inputs[1:])
        ctx.save_for_forward(output[1], *inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @override
    def backward(
        ctx: Any, grad_s: Tensor | None, grad_d: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        """Return the gradient with respect to z."""
        d, mask, n = ctx.saved_tensors
        grad = None if grad_s is None else (2 * n * grad_s)[:, None, None] * d
        if grad_d is not None:  # only when a second derivative is taken
            through_d: Tensor = _Scatter.apply(grad_d, mask, n)[1]  # type: ignore[no-untyped-call]
            grad = through_d if grad is None else grad + through_d
        return grad, None, None

    @staticmethod
    @override
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, Tensor]:
        """Return the derivatives in the direction of `tangent`."""
        d, mask, n = ctx.saved_tensors
        change: Tensor = _Scatter.apply(tangent, mask, n)[1]  # type: ignore[no-untyped-call]
        return 2 * n * (d * change).sum(dim=(1, 2)), change


def _zero_masked(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with zeros where the mask is False, NaN included.

    The bits of x are combined by AND with -mask, which has all bits set where the mask is True and
    none elsewhere. This is five times as fast as `torch.where`.
    """
    bits = torch.int64 if x.dtype == torch.float64 else torch.int32
    return (x.view(bits) & -mask.to(bits)[..., None]).view(x.dtype)
