"""Substitutes for the embeddings of missing modalities, made from the available ones."""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_choice, check_count
from invmod._precision import without_autocast
from invmod.fusion.masked import available_cells


class ProxyTokens(nn.Module):
    r"""Replace missing embeddings by substitutes that low-rank heads make from available ones.

    .. math::
        t_{n, m \to k} = U_{mk} V_{mk} z_{nm} + b_{mk}, \qquad
        \hat z_{nk} = a_{nk} z_{nk} + (1 - a_{nk})
            \frac{\sum_{m \neq k} a_{nm} t_{n, m \to k}}{\sum_{m \neq k} a_{nm}}

    where :math:`z_{nm}` is the embedding of sample n and modality m, :math:`a_{nm}` is 1 where the
    mask is True, and for each ordered pair of modalities :math:`m \to k` the matrices
    :math:`V_{mk}` (r, D), :math:`U_{mk}` (D, r) and the vector :math:`b_{mk}` are learned. The
    heads learn from the rows that have both modalities of a pair, by `alignment_loss`, which is
    added to the loss of the task; they also learn from the task itself wherever a substitute is
    used. :math:`U` and b start at 0, so the first substitutes are 0.

    Arguments:
        num_modalities: M, at least 1.
        embedding_dim: D, at least 1.
        rank: r, at least 1.
        generator: source of the initial V; None means the global generator.

    Shape:
        z (N, M, D) and mask (N, M) or None to ``(z_hat, usable)``: (N, M, D) in the dtype of z,
        computed in float32 or wider, and bool (N, M), as of an imputer. Available cells keep their
        values to the bit. Rows in which nothing is available stay 0 and unusable.

    Raises:
        TypeError, ValueError: a size is not an int of at least 1. When called: z or the mask does
            not fit.

    References:
        Reza et al., Robust Multimodal Learning via Cross-Modal Proxy Tokens, arXiv:2501.17823, for
        tokens that a frozen encoder with low-rank adapters returns. Here the encoders are the
        caller's: a token is a low-rank linear function of z, and several sources are averaged.

    Example:
        >>> proxies = ProxyTokens(2, 3)
        >>> z = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
        >>> mask = torch.tensor([[True, False]])
        >>> proxies(z, mask)
        (tensor([[[1., 2., 3.],
                 [0., 0., 0.]]], grad_fn=<WhereBackward0>), tensor([[True, True]]))
        >>> proxies.alignment_loss(z)  # (1 + 4 + 9 + 16 + 25 + 36) / 2, both substitutes are 0
        tensor(45.5000, grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        num_modalities: int,
        embedding_dim: int,
        *,
        rank: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_modalities": num_modalities, "embedding_dim": embedding_dim, "rank": rank}
        m, dim, r = (check_count("ProxyTokens", name, size) for name, size in sizes.items())
        # Ordered pairs (source, target), grouped by target.
        self.pairs = tuple((s, t) for t in range(m) for s in range(m) if s != t)
        device = "cpu" if generator is None else generator.device
        drawn = torch.randn(len(self.pairs), dim, r, generator=generator, device=device)
        self.down = nn.Parameter(torch.empty(drawn.shape))
        with torch.no_grad():
            self.down.copy_(drawn / math.sqrt(dim))
        self.up = nn.Parameter(torch.zeros(len(self.pairs), r, dim))
        self.bias = nn.Parameter(torch.zeros(len(self.pairs), dim))
        self.num_modalities = m

    def substitutes(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return t (N, P, D) of the P = M (M - 1) pairs in `pairs`, in float32 or wider.

        Substitutes that would be made from an unavailable cell are those of a zero embedding.
        """
        available, _ = self._prepare(z, mask)
        return self._substitutes(available)

    @override
    def forward(self, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill the missing embeddings; return (z_hat, usable)."""
        available, mask = self._prepare(z, mask)
        usable = mask.any(dim=1, keepdim=True).expand_as(mask)
        if not self.pairs:
            return available.to(z.dtype), usable
        sources = [s for s, _ in self.pairs]
        has_source = mask[:, sources][..., None]
        tokens = torch.where(has_source, self._substitutes(available), 0.0)
        split = {"k": self.num_modalities}
        total = reduce(tokens, "n (k s) d -> n k d", "sum", **split)
        count = reduce(has_source.to(total.dtype), "n (k s) 1 -> n k 1", "sum", **split)
        filled = (total / count.clamp(min=1)).to(z.dtype)
        return torch.where(mask[..., None], available.to(z.dtype), filled), usable

    def alignment_loss(
        self, z: Tensor, mask: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        r"""Return the squared distance between substitutes and the embeddings that they stand for.

        .. math::
            \frac{\sum_n \sum_{m \neq k} a_{nm} a_{nk} \| t_{n, m \to k} - z_{nk} \|^2}
                {\sum_n \sum_{m \neq k} a_{nm} a_{nk}}

        where :math:`z_{nk}` on the right has no gradient: the heads, and the encoder of m, learn to
        predict k, and k is not pulled towards its substitutes. The paper adds 0.2 times this loss
        to that of the task.

        Arguments:
            z: embeddings (N, M, D).
            mask: bool (N, M), True for the observed cells. None means all.
            reduction: ``"mean"`` over rows and ordered pairs with both modalities, or ``"sum"``.

        Returns:
            a scalar in float32 or wider; 0 without any pair, so with one modality.
        """
        check_choice("ProxyTokens.alignment_loss", "reduction", reduction, ("mean", "sum"))
        available, mask = self._prepare(z, mask)
        if not self.pairs:
            # NaN stays NaN, and the result keeps a gradient, which is 0.
            return 0.0 * available.sum()
        sources, targets = ([pair[side] for pair in self.pairs] for side in (0, 1))
        both = mask[:, sources] & mask[:, targets]
        error = self._substitutes(available) - available[:, targets].detach()
        # Select before squaring: the error of a pair that lacks a modality must not reach the sum.
        total = torch.where(both[..., None], error, 0.0).square().sum()
        return total / both.sum().clamp(min=1) if reduction == "mean" else total

    def _substitutes(self, available: Tensor) -> Tensor:
        wide = available.dtype
        sources = rearrange(available[:, [s for s, _ in self.pairs]], "n p d -> p n d")
        # Matrix products, because ONNX Runtime aborts the process on an einsum without rows.
        with without_autocast(available):
            tokens = sources @ self.down.to(wide) @ self.up.to(wide)
        return rearrange(tokens, "p n d -> n p d") + self.bias.to(wide)

    def _prepare(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Check z and the mask; return z in float32 or wider, 0 where unavailable, and the mask."""
        return available_cells("ProxyTokens", z, mask, (self.num_modalities, self.down.shape[1]))

    @override
    def extra_repr(self) -> str:
        _, dim, rank = self.down.shape
        return f"num_modalities={self.num_modalities}, embedding_dim={dim}, rank={rank}"
