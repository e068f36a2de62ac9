"""Fusion that draws the modality of each coordinate at random: EmbraceNet."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_floating
from invmod.fusion.masked import available_cells, check_z_and_mask


class EmbraceNetFusion(nn.Module):
    r"""Draw, in training, the modality of each coordinate at random; average them in evaluation.

    .. math::
        p_{nm} = \frac{a_{nm} w_{nm}}{\sum_k a_{nk} w_{nk}}, \qquad
        h_{nd} = z_{n \, i_{nd} \, d} \text{ with } i_{nd} \sim \mathrm{Categorical}(p_n)
        \text{ in training}, \qquad
        h_n = \sum_m p_{nm} z_{nm} \text{ in evaluation}

    where :math:`z_{nm}` is the embedding of sample n and modality m, :math:`a_{nm}` is 1 where the
    mask is True, and :math:`w_{nm}` are the weights, 1 by default. The draws of all rows n and
    coordinates d are independent. In training mode the fusion is a kind of dropout: every sample is
    a mixture of its modalities, and a coordinate must have the same meaning in all of them. Its
    expectation over the draws is the output in evaluation mode, which is `invmod.masked_mean` for
    equal weights. The gradient reaches only the cells that were drawn, and never the weights.

    Special cases:

    * A missing modality is never drawn. If nothing is available, the result is 0.
    * If the available weights of a row sum to 0, its available modalities are equally probable.
    * NaN in an available cell gives NaN in its coordinates, drawn or not.

    The original draws in evaluation mode too; call ``train()`` for that. It also hides modalities
    at random in training, which is a matter of the mask here: see `invmod.simulate_missing`.

    Shape:
        z (N, M, D), mask bool (N, M) or None, and weights (M,) or (N, M), or None for equal ones,
        to (N, D) in the dtype of z, computed in float32 or wider. The weights must not be negative.

    Raises:
        TypeError: when called: z or the weights are not floating-point tensors, or the mask is not
            bool.
        ValueError: when called: shapes do not fit.

    References:
        Choi and Lee, EmbraceNet: A Robust Deep Learning Architecture for Multimodal Classification,
        Information Fusion 2019. Its docking layers are the encoders here.

    Example:
        >>> fusion = EmbraceNetFusion()
        >>> z = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]]])
        >>> fusion(z, generator=torch.Generator().manual_seed(0))
        tensor([[-1., -2.,  3., -4.]])
        >>> fusion(z, torch.tensor([[False, True]]))
        tensor([[-1., -2., -3., -4.]])
        >>> fusion.eval()(z, weights=torch.tensor([3.0, 1.0]))
        tensor([[0.5000, 1.0000, 1.5000, 2.0000]])
    """

    @override
    def forward(
        self,
        z: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Fuse (N, M, D) to (N, D).

        Arguments:
            z: embeddings (N, M, D).
            mask: bool (N, M), True where a cell may be used. None means all.
            weights: (M,) or (N, M), not negative. None means equal weights.
            generator: source of the draws in training mode; None is the global generator.
        """
        available, mask = available_cells("EmbraceNetFusion", z, mask)
        probabilities = self.probabilities(z, mask, weights)
        if not self.training:
            # Written elementwise, so that autocast does not lower the precision of a product.
            weighted = rearrange(probabilities, "n m -> n m 1") * available
            return reduce(weighted, "n m d -> n d", "sum").to(z.dtype)
        drawn = _draw(probabilities, z.shape[2], generator)
        h = available.gather(1, rearrange(drawn, "n d -> n 1 d"))[:, 0]
        # A coordinate of another modality would hide that a batch or its weights are broken.
        broken = available.isnan().any(dim=1) | probabilities.isnan().any(dim=1, keepdim=True)
        return torch.where(broken, torch.nan, h).to(z.dtype)

    def probabilities(
        self, z: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return p (N, M) in float32 or wider, without a gradient; 0 without any modality."""
        mask = check_z_and_mask("EmbraceNetFusion", z, mask, ndim=3)
        wide = torch.promote_types(z.dtype, torch.float32)
        a = mask.to(wide)
        if weights is not None:
            check_floating("EmbraceNetFusion", "weights", weights)
            per_row = weights.ndim == 2 and weights.shape[0] == z.shape[0]
            if not (weights.ndim == 1 or per_row) or weights.shape[-1] != z.shape[1]:
                raise ValueError(
                    f"EmbraceNetFusion: `weights` must have shape (M,) or (N, M) = "
                    f"{tuple(mask.shape)}, got {tuple(weights.shape)}."
                )
            # Select instead of multiplying, because the weight of a hidden cell may be NaN.
            w = torch.where(mask, weights.detach(), 0.0).to(wide)
            total = reduce(w, "n m -> n 1", "sum")
            # Dividing by a subnormal sum could overflow, so such a sum counts as 0.
            finfo = torch.finfo(wide)
            a = torch.where(total < finfo.tiny / finfo.eps, a, w)
        total = reduce(a, "n m -> n 1", "sum")
        return a / torch.where(total == 0, 1.0, total)


def _draw(probabilities: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """Draw (N, size) indices of modalities from each row of (N, M), by inversion of their sums.

    An index with the probability 0 is never drawn. Rows of zeros give index 0.
    """
    num_rows, num_modalities = probabilities.shape
    device = probabilities.device if generator is None else generator.device
    u = torch.rand(num_rows, size, generator=generator, device=device, dtype=torch.float64)
    sums = probabilities.to(torch.float64).cumsum(dim=1).contiguous()
    # The last sum differs from 1 by rounding, so the draws are scaled to it.
    u = u.to(probabilities.device) * sums[:, -1:]
    drawn = torch.searchsorted(sums, u.contiguous(), right=True)
    # Rounding may put a draw onto the last sum itself: it belongs to the last possible modality.
    index = torch.arange(num_modalities, device=probabilities.device)
    last = torch.where(probabilities > 0, index, 0).amax(dim=1, keepdim=True)
    return drawn.minimum(last)
