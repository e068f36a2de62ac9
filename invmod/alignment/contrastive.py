"""Telling a sample's other modality from those of other samples."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod.alignment.pairs import PairReduction, checked, num_pairs, pairs, reduced, unit_vectors


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
    r"""Find a sample's other modality among those of the batch (InfoNCE, both ways).

    .. math::
        \ell_j^{m \to m'} = -\log \frac{\exp(u_{jm}^\top u_{jm'} / \tau)}
            {\sum_i a_{im'} \exp(u_{jm}^\top u_{im'} / \tau)}, \qquad
        s_j = \sum_{m < m'} a_{jm} a_{jm'} \, \frac{\ell_j^{m \to m'} + \ell_j^{m' \to m}}{2}, \qquad
        u = c / \lVert c \rVert

    A sample is compared where it has both modalities. Its candidates are all samples of the batch that have the other
    modality, whatever else they lack. Unlike distances and cosines this does not reward one point for all samples:
    the others push away. A sample that is the only candidate has loss :math:`\log 1 = 0`, with zero gradient: a batch
    of one teaches nothing. It is not a mean over samples: parts of a batch have other candidates, so gather embeddings
    before, where a batch is spread over processes.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed); all where None.
        temperature: :math:`\tau`, positive.
        weights: (N,), how much a row counts, by which both :math:`s_j` and :math:`p_j`, the number of its pairs, are
            multiplied; all 1 where None. Candidates count alike.
        anchor: compare this modality with each of the others, not all pairs; both ways still.
        stop_gradient: hold the anchor fixed: it is a teacher, which is not drawn to the others.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`.
            ``"item_mean"``: :math:`\sum_j w_j s_j / \sum_j w_j`. ``"mean"``: :math:`\sum_j w_j s_j / \sum_j w_j p_j`.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair it is a 0 that is attached to
        the graph, with zero gradient. Costs one matrix (N, N) for each pair of modalities.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` or the weights are of a wrong type.
        ValueError: shapes do not fit, a temperature that is not positive, an anchor outside the modalities, a stop
            without an anchor, or an unknown reduction.

    References:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, Eq. 4; Radford et al.,
        Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, for both ways.

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
    z, mask = checked(function, z, mask, anchor, stop_gradient)
    u = unit_vectors(z, mask)
    s = (u[..., :1] * 0.0).sum(dim=(1, 2))
    with torch.autocast(device_type=z.device.type, enabled=False):
        for first, second in pairs(z.shape[1], anchor):
            logits = u[:, first] @ u[:, second].T / temperature
            both = mask[:, first] & mask[:, second]
            positive = logits.diagonal()
            there = _log_sum(logits, mask[:, second]) - positive
            back = _log_sum(logits.T, mask[:, first]) - positive
            s = s + torch.where(both, (there + back) / 2, 0.0)
    counts = num_pairs(mask, anchor, z.dtype)
    return reduced(function, s, counts, weights, reduction, ("none", "sum", "item_mean", "mean"))


def _log_sum(logits: Tensor, candidates: Tensor) -> Tensor:
    """Return the log of the sum over candidates, (N,); without a candidate some large negative number."""
    return torch.where(candidates, logits, torch.finfo(logits.dtype).min).logsumexp(dim=1)
