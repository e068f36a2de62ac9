"""Fusion whose weights are learned from what the modalities say."""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_count
from invmod.fusion.masked import checked_z


class GatedFusion(nn.Module):
    r"""Weigh each modality by a gate that reads it.

    .. math::
        g_{nm} = \frac{a_{nm} \exp(v_m^\top z_{nm} + b_m)}{\sum_k a_{nk} \exp(v_k^\top z_{nk} + b_k)}, \qquad
        h_n = \sum_m g_{nm} z_{nm}

    The gates of a sample are positive and sum to 1 over what is there, so missing modalities hand their weight on. The
    parameters start at 0, where the fusion is `invmod.masked_mean`.

    Arguments:
        num_modalities: M, at least 1.
        embedding_dim: D, at least 1.

    Shape:
        z (N, M, D) and mask (N, M) or None to (N, D), in the dtype of z and computed in float32 or wider; 0 where
        nothing is available.

    Raises:
        TypeError, ValueError: a size that is not an int of at least 1; in a call what does not fit.

    References:
        Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR 2017 Workshop; the softmax over
        modalities is what makes it honour a mask.

    Example:
        >>> fusion = GatedFusion(2, 3)
        >>> z = torch.tensor([[[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]])
        >>> fusion(z).tolist(), fusion(z, torch.tensor([[False, True]])).tolist()
        ([[2.0, 2.0, 2.0]], [[3.0, 3.0, 3.0]])
    """

    def __init__(self, num_modalities: int, embedding_dim: int) -> None:
        super().__init__()
        check_count("GatedFusion", "num_modalities", num_modalities)
        check_count("GatedFusion", "embedding_dim", embedding_dim)
        self.weight = nn.Parameter(torch.zeros(num_modalities, embedding_dim))
        self.bias = nn.Parameter(torch.zeros(num_modalities))

    def gates(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the gates g (N, M), in float32 or wider; all 0 where nothing is available."""
        mask = checked_z("GatedFusion", z, mask, ndim=3)
        _check_shape("GatedFusion", z, self.weight.shape)
        return self._gates(_available(z, mask), mask)

    def _gates(self, available: Tensor, mask: Tensor) -> Tensor:
        scores = reduce(available * self.weight.to(available.dtype), "n m d -> n m", "sum")
        return _shares(scores + self.bias.to(scores.dtype), mask)

    @override
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fuse (N, M, D) to (N, D)."""
        mask = checked_z("GatedFusion", z, mask, ndim=3)
        _check_shape("GatedFusion", z, self.weight.shape)
        available = _available(z, mask)
        gates = rearrange(self._gates(available, mask), "n m -> n m 1")
        return reduce(gates * available, "n m d -> n d", "sum").to(z.dtype)

    @override
    def extra_repr(self) -> str:
        return f"num_modalities={self.weight.shape[0]}, embedding_dim={self.weight.shape[1]}"


class AttentionFusion(nn.Module):
    r"""Attention over modalities, with learned queries.

    .. math::
        h_{nq} = \sum_m \mathrm{softmax}_m\Big( \frac{q^\top (K z_{nm} + k_m)}{\sqrt{d}} \Big) \, z_{nm}

    with the softmax over the modalities that are there. The heads share D: each has d entries of the keys, the query
    and z. The keys are a linear map of z and a vector of the modality, the values are z itself. The queries start at 0,
    where every head gives `invmod.masked_mean`.

    Arguments:
        num_modalities: M, at least 1.
        embedding_dim: D, at least 1.
        num_heads: a divisor of D.
        num_queries: Q, at least 1; each gives one fused row.
        generator: seeds the keys; the global generator where None.

    Shape:
        z (N, M, D) and mask (N, M) or None to (N, D), or (N, Q, D) with several queries, in the dtype of z and computed
        in float32 or wider; 0 where nothing is available.

    Raises:
        TypeError, ValueError: a size that is not an int of at least 1, or heads that do not divide D; in a call what
            does not fit.

    References:
        Vaswani et al., Attention Is All You Need, NeurIPS 2017; Lee et al., Set Transformer, ICML 2019, section 3.2,
        for learned queries.

    Example:
        >>> fusion = AttentionFusion(2, 4, num_heads=2, generator=torch.Generator().manual_seed(0))
        >>> z = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]])
        >>> fusion(z).tolist(), fusion(z, torch.tensor([[False, True]])).tolist()
        ([[2.0, 2.0, 2.0, 2.0]], [[3.0, 3.0, 3.0, 3.0]])
    """

    def __init__(
        self,
        num_modalities: int,
        embedding_dim: int,
        *,
        num_heads: int = 1,
        num_queries: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_modalities": num_modalities, "embedding_dim": embedding_dim}
        for name, size in {**sizes, "num_heads": num_heads, "num_queries": num_queries}.items():
            check_count("AttentionFusion", name, size)
        if embedding_dim % num_heads:
            raise ValueError(
                f"AttentionFusion: `num_heads` must divide `embedding_dim` = {embedding_dim}, got {num_heads}."
            )
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.zeros(num_queries, embedding_dim))
        self.key = nn.Parameter(torch.empty(embedding_dim, embedding_dim))
        self.modality = nn.Parameter(torch.empty(num_modalities, embedding_dim))
        with torch.no_grad():
            for parameter in (self.key, self.modality):
                device = "cpu" if generator is None else generator.device
                drawn = torch.randn(
                    parameter.shape, generator=generator, device=device, dtype=parameter.dtype
                )
                parameter.copy_(drawn / math.sqrt(embedding_dim))

    def attention(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights (N, Q, heads, M), in float32 or wider; all 0 where nothing is available."""
        mask = checked_z("AttentionFusion", z, mask, ndim=3)
        _check_shape("AttentionFusion", z, self.modality.shape)
        return self._attention(_available(z, mask), mask)

    def _heads(self, x: Tensor) -> Tensor:
        """Split the last axis into P heads of equal width."""
        return rearrange(x, "... (p d) -> ... p d", p=self.num_heads)

    def _attention(self, available: Tensor, mask: Tensor) -> Tensor:
        wide = available.dtype
        with torch.autocast(device_type=available.device.type, enabled=False):
            keys = available @ self.key.to(wide).T + self.modality.to(wide)
            keys, query = self._heads(keys), self._heads(self.query.to(wide))
            scores = torch.einsum("nmhd,qhd->nqhm", keys, query) / math.sqrt(query.shape[-1])
        return _shares(scores, mask[:, None, None])

    @override
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fuse (N, M, D) to (N, D) or (N, Q, D)."""
        mask = checked_z("AttentionFusion", z, mask, ndim=3)
        _check_shape("AttentionFusion", z, self.modality.shape)
        available = _available(z, mask)
        weights = self._attention(available, mask)
        values = self._heads(available)
        with torch.autocast(device_type=z.device.type, enabled=False):
            fused = torch.einsum("nqhm,nmhd->nqhd", weights, values)
        fused = rearrange(fused, "... p d -> ... (p d)")
        return (fused[:, 0] if self.query.shape[0] == 1 else fused).to(z.dtype)

    @override
    def extra_repr(self) -> str:
        m, dim = self.modality.shape
        queries = self.query.shape[0]
        return f"num_modalities={m}, embedding_dim={dim}, num_heads={self.num_heads}, num_queries={queries}"


def _available(z: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], z, 0.0).to(torch.promote_types(z.dtype, torch.float32))


def _shares(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the available entries of the last axis; all 0 where there is none."""
    some = mask.any(dim=-1, keepdim=True)
    shares = torch.where(mask | ~some, scores, -torch.inf).softmax(dim=-1)
    return torch.where(mask, shares, 0.0)


def _check_shape(kind: str, z: Tensor, sizes: torch.Size) -> None:
    if z.shape[1:] != sizes:
        raise ValueError(
            f"{kind}: `z` must have shape (N, {sizes[0]}, {sizes[1]}), got {tuple(z.shape)}."
        )
