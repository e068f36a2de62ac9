"""Alignment by singular values: the modalities of a sample should span one direction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice
from invmod._precision import without_autocast
from invmod.alignment.pairs import prepare_inputs, reduce_losses, unit_vectors

# Added to squared singular values. The square root has an infinite slope at 0, where all rows of a
# sample are equal, which is the minimum of the loss.
_EPSILON = 1e-6


def singular_value_alignment_loss(
    z: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 0.1,
    weights: Tensor | None = None,
    reduction: Literal["none", "sum", "mean"] = "mean",
) -> Tensor:
    r"""Cross entropy that makes the largest singular value of a sample's modalities dominate.

    .. math::
        s_j = -\log \frac{\exp(\sigma_{j1} / \tau)}{\sum_k \exp(\sigma_{jk} / \tau)}, \qquad
        \sigma_{jk} = \sqrt{\lambda_k(U_j U_j^\top) + 10^{-6}}, \qquad
        u_{jm} = c_{jm} / \lVert c_{jm} \rVert

    where :math:`c_{jm}` is the row of `z` for sample j and modality m, :math:`U_j` has the rows
    :math:`u_{jm}` of the :math:`n_j` available modalities, :math:`\lambda_k` is the k-th largest
    eigenvalue, so that :math:`\sigma_{jk}` is the k-th of the :math:`\min(n_j, D)` singular values
    of :math:`U_j`, and :math:`\tau` is the temperature.

    The loss is smallest if all rows are equal up to their lengths and signs, a matrix of rank one,
    and largest, :math:`\log n_j`, if they are orthogonal. It compares all modalities of a sample at
    once, without an anchor. Like the cosine loss it does not keep samples apart: its minimum
    includes mapping all of them to one point, so the task's loss, or `infonce_alignment_loss`, must
    prevent that. Its gradient vanishes at equal rows.

    Arguments:
        z: (N, M, D) encoded modalities. Missing ones may be filled by a model of the
            representations, with the mask set to True there; see the page on alignment.
        mask: bool (N, M), the modalities to compare. None means all.
        temperature: :math:`\tau`, positive.
        weights: (N,) weight of each row. None means 1 for every row.
        reduction: ``"none"``: :math:`w s` (N,). ``"sum"``: :math:`\sum_j w_j s_j`. ``"mean"``:
            the sum divided by :math:`\sum_j w_j` over the samples with two modalities or more.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. A sample with fewer than two
        available modalities has loss 0 with zero gradient. NaN in an available modality gives NaN.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or the weights have a wrong type.
        ValueError: shapes do not fit, `temperature` is not positive, or `reduction` is unknown.

    References:
        Liu et al., Principled Multimodal Representation Learning, 2025 (arXiv 2507.17343), without
        its regularisation over instances; used on filled representations by CalMRL, 2025 (arXiv
        2511.12034). The small constant under the root is ours.

    Example:
        >>> equal, orthogonal = [[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]
        >>> z = torch.tensor([equal, orthogonal])
        >>> # Singular values (sqrt(2), 0) and (1, 1): log(1 + exp(-sqrt(2))) and log(2).
        >>> singular_value_alignment_loss(z, temperature=1.0, reduction="none")
        tensor([0.2178, 0.6931])
        >>> singular_value_alignment_loss(z[:1], torch.tensor([[True, False]]))
        tensor(0.)
    """
    function = "singular_value_alignment_loss"
    if not temperature > 0:
        raise ValueError(f"{function}: `temperature` must be positive, got {temperature}.")
    check_choice(function, "reduction", reduction, ("none", "sum", "mean"))
    z, mask = prepare_inputs(function, z, mask, None, False)
    u = unit_vectors(z, mask)
    with without_autocast(z):
        sigma = _singular_values(u)
    n = mask.sum(dim=1)
    # Unavailable rows of u are 0 and add singular values of 0, which come last and do not count.
    position = torch.arange(z.shape[1], device=z.device)
    counts = position < n.clamp(max=z.shape[2])[:, None]
    logits = torch.where(counts, sigma / temperature, torch.finfo(z.dtype).min)
    compared = n >= 2
    s = torch.where(compared, logits.logsumexp(dim=1) - logits[:, 0], 0.0)
    return reduce_losses(function, s, compared.to(z.dtype), weights, reduction, ())


def _singular_values(u: Tensor) -> Tensor:
    """Return the M singular values of each matrix of u (N, M, D), the largest first: (N, M).

    They are the roots of the eigenvalues of u u^T. Unlike those of a decomposition of u itself,
    their gradient at a singular value of 0 is 0 instead of an arbitrary direction.
    """
    gram = u @ u.mT
    # The decomposition of a matrix with NaN raises an error, so it is replaced, and NaN is added.
    finite = gram.isfinite().all(dim=2).all(dim=1)[:, None]
    identity = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    eigenvalues: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None], gram, identity))
    sigma = (eigenvalues.flip(-1).clamp_min(0) + _EPSILON).sqrt()
    return sigma + torch.where(finite, 0.0, gram.sum(dim=2) * 0.0)
