"""Contrastive alignment: identify a sample's other modality among the samples of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod._precision import without_autocast
from invmod.alignment.pairs import (
    PairReduction,
    modality_pairs,
    num_pairs,
    prepare_inputs,
    reduce_losses,
    unit_vectors,
)


def infonce_alignment_loss(
    z: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 0.1,
    weights: Tensor | None = None,
    anchor: int | None = None,
    stop_gradient: bool = False,
    reduction: PairReduction = "mean",
) -> Tensor:
    r"""Symmetric InfoNCE loss between all pairs of available modalities.

    .. math::
        \ell_j^{m \to m'} = -\log \frac{\exp(u_{jm}^\top u_{jm'} / \tau)}
            {\sum_i a_{im'} \exp(u_{jm}^\top u_{im'} / \tau)}, \qquad
        s_j = \sum_{m < m'} a_{jm} a_{jm'} \,
            \frac{\ell_j^{m \to m'} + \ell_j^{m' \to m}}{2}, \qquad
        u = c / \lVert c \rVert

    where :math:`c_{jm}` is the row of `z` for sample j and modality m, :math:`a_{jm}` is 1 where
    the mask is True, and :math:`\tau` is the temperature.

    A sample enters the sum for every pair of modalities that it has. Its candidates are all
    samples of the batch that have the other modality, whichever further modalities they lack.
    Unlike losses of distances or cosines, this loss does not reward mapping all samples to one
    point, because the other candidates push each other away. A sample that is the only candidate
    has loss :math:`\log 1 = 0` with zero gradient, so a batch of one sample trains nothing. The
    loss is not a mean of independent samples: parts of a batch have different candidates, so
    gather the embeddings first if a batch is spread over processes.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed). None means all.
        temperature: :math:`\tau`, positive.
        weights: (N,) weight of each row, which multiplies both :math:`s_j` and :math:`p_j`, the
            number of the row's available pairs. None means 1 for every row. Weights do not apply
            to candidates.
        anchor: compare this modality with each of the others instead of comparing all pairs. The
            loss stays symmetric.
        stop_gradient: detach the anchor, so that it acts as a teacher: the other modalities move
            towards it, and it gets no gradient.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`.
            ``"item_mean"``: :math:`\sum_j w_j s_j / \sum_j w_j`.
            ``"mean"``: :math:`\sum_j w_j s_j / \sum_j w_j p_j`.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair it is a 0
        that is attached to the graph and has zero gradient. Each pair of modalities needs one
        (N, N) matrix.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` or the weights have
            a wrong type.
        ValueError: shapes do not fit, `temperature` is not positive, `anchor` is not the position
            of a modality, `stop_gradient` is given without `anchor`, or `reduction` is unknown.

    References:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018,
        Eq. 4; Radford et al., Learning Transferable Visual Models From Natural Language
        Supervision, ICML 2021, for the symmetric form.

    Example:
        >>> z = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> infonce_alignment_loss(z, temperature=1.0)  # log(1 + exp(-1))
        tensor(0.3133)
        >>> infonce_alignment_loss(z[:1])
        tensor(0.)
    """
    function = "infonce_alignment_loss"
    if not temperature > 0:
        raise ValueError(f"{function}: `temperature` must be positive, got {temperature}.")
    z, mask = prepare_inputs(function, z, mask, anchor, stop_gradient)
    u = unit_vectors(z, mask)
    # Start from a zero that depends on u, so that the result has a graph even without a pair.
    s = (u[..., :1] * 0.0).sum(dim=(1, 2))
    with without_autocast(z):
        for first, second in modality_pairs(z.shape[1], anchor):
            # logits[j, i] compares modality `first` of sample j with modality `second` of sample i,
            # so the positives lie on the diagonal and the transpose holds the reverse direction.
            logits = u[:, first] @ u[:, second].T / temperature
            both = mask[:, first] & mask[:, second]
            positive = logits.diagonal()
            loss_forward = _candidate_logsumexp(logits, mask[:, second]) - positive
            loss_reverse = _candidate_logsumexp(logits.T, mask[:, first]) - positive
            s = s + torch.where(both, (loss_forward + loss_reverse) / 2, 0.0)
    counts = num_pairs(mask, anchor, z.dtype)
    return reduce_losses(
        function, s, counts, weights, reduction, ("none", "sum", "item_mean", "mean")
    )


def _candidate_logsumexp(logits: Tensor, candidates: Tensor) -> Tensor:
    """Return the logsumexp over candidates, (N,).

    Non-candidates have the lowest finite value, not -inf: a row without any candidate then has a
    finite result and a finite gradient, and the caller discards it.
    """
    return torch.where(candidates, logits, torch.finfo(logits.dtype).min).logsumexp(dim=1)
