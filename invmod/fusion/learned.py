"""Fusion with learned weights that depend on the modalities' embeddings."""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_count
from invmod._precision import without_autocast
from invmod.fusion.masked import available_cells


class GatedFusion(nn.Module):
    r"""Weight each modality by a gate that is computed from its embedding.

    .. math::
        g_{nm} = \frac{a_{nm} \exp(v_m^\top z_{nm} + b_m)}
            {\sum_k a_{nk} \exp(v_k^\top z_{nk} + b_k)}, \qquad
        h_n = \sum_m g_{nm} z_{nm}

    where :math:`z_{nm}` is the embedding of sample n and modality m, :math:`a_{nm}` is 1 where the
    mask is True, and the vectors :math:`v_m` and biases :math:`b_m` are learned. The gates of a
    sample are positive and sum to 1 over its available modalities, so the weight of a missing
    modality goes to the others. The parameters start at 0, where the fusion equals
    `invmod.masked_mean`.

    Arguments:
        num_modalities: M, at least 1.
        embedding_dim: D, at least 1.

    Shape:
        z (N, M, D) and mask (N, M) or None to (N, D), in the dtype of z and computed in float32 or
        wider; 0 where nothing is available.

    Raises:
        TypeError, ValueError: a size is not an int of at least 1. When called: z or the mask does
            not fit.

    References:
        Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR 2017 Workshop. The
        softmax over the available modalities is added here, to support masks.

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
        """Return the gates g (N, M) in float32 or wider; 0 without any available modality."""
        available, mask = available_cells("GatedFusion", z, mask, self.weight.shape)
        return self._gates(available, mask)

    def _gates(self, available: Tensor, mask: Tensor) -> Tensor:
        # One dot product per modality, written elementwise so that autocast does not lower it.
        scores = reduce(available * self.weight.to(available.dtype), "n m d -> n m", "sum")
        return _masked_softmax(scores + self.bias.to(scores.dtype), mask)

    @override
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fuse (N, M, D) to (N, D)."""
        available, mask = available_cells("GatedFusion", z, mask, self.weight.shape)
        gates = rearrange(self._gates(available, mask), "n m -> n m 1")
        return reduce(gates * available, "n m d -> n d", "sum").to(z.dtype)

    @override
    def extra_repr(self) -> str:
        return f"num_modalities={self.weight.shape[0]}, embedding_dim={self.weight.shape[1]}"


# Letters of the patterns in this class: n sample, m modality, p head, d entry of a head, and e
# query, because each query gives a sample one fused row, as an environment does.
class AttentionFusion(nn.Module):
    r"""Attention over modalities, with learned queries.

    .. math::
        h_{nq} = \sum_m
            \mathrm{softmax}_m\Big( \frac{q^\top (K z_{nm} + k_m)}{\sqrt{d}} \Big) \, z_{nm}

    where :math:`z_{nm}` is the embedding of sample n and modality m, q is a learned query, K is a
    learned matrix, :math:`k_m` is a learned vector of the modality, and the softmax runs over the
    available modalities. Each head uses d = D / `num_heads` entries of the keys, the query and z.
    The values are z itself. The queries start at 0, where every head equals `invmod.masked_mean`.

    Arguments:
        num_modalities: M, at least 1.
        embedding_dim: D, at least 1.
        num_heads: number of heads, a divisor of D.
        num_queries: Q, at least 1; each query gives one fused row.
        generator: source of the initial K and :math:`k_m`; None means the global generator.

    Shape:
        z (N, M, D) and mask (N, M) or None to (N, D), or to (N, Q, D) with several queries, in the
        dtype of z and computed in float32 or wider; 0 where nothing is available.

    Raises:
        TypeError, ValueError: a size is not an int of at least 1, or `num_heads` does not divide D.
            When called: z or the mask does not fit.

    References:
        Vaswani et al., Attention Is All You Need, NeurIPS 2017; Lee et al., Set Transformer,
        ICML 2019, section 3.2, for learned queries.

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
                f"AttentionFusion: `num_heads` must divide `embedding_dim` = {embedding_dim}, "
                f"got {num_heads}."
            )
        self.num_heads = int(num_heads)
        # Zero queries give equal scores to all modalities, so training starts at the masked mean.
        # The keys must be random: with zero keys too, the gradients of both would be 0.
        self.query = nn.Parameter(torch.zeros(num_queries, embedding_dim))
        self.key = nn.Parameter(torch.empty(embedding_dim, embedding_dim))
        self.modality = nn.Parameter(torch.empty(num_modalities, embedding_dim))
        with torch.no_grad():
            # Draw on the generator's device, which may differ from that of the parameters.
            for parameter in (self.key, self.modality):
                device = "cpu" if generator is None else generator.device
                drawn = torch.randn(
                    parameter.shape, generator=generator, device=device, dtype=parameter.dtype
                )
                parameter.copy_(drawn / math.sqrt(embedding_dim))

    def attention(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights (N, Q, num_heads, M) in float32 or wider; 0 without any modality."""
        available, mask = available_cells("AttentionFusion", z, mask, self.modality.shape)
        return rearrange(self._attention(available, mask), "n p e m -> n e p m")

    def _attention(self, available: Tensor, mask: Tensor) -> Tensor:
        """Return the weights with the axes (N, num_heads, Q, M), as the products use them."""
        wide, p = available.dtype, self.num_heads
        # Under autocast the products would run in half precision, even on float32 input. They are
        # written as matrix products, because ONNX Runtime aborts the process on an einsum without
        # rows.
        with without_autocast(available):
            keys = available @ self.key.to(wide).T + self.modality.to(wide)
            keys = rearrange(keys, "n m (p d) -> n p d m", p=p)
            # einops remembers types that it met, and a parameter would add one after compilation.
            query = self.query.to(wide).reshape(-1, p, keys.shape[2]).movedim(1, 0)
            scores = query @ keys / math.sqrt(query.shape[-1])
        return _masked_softmax(scores, mask[:, None, None])

    @override
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fuse (N, M, D) to (N, D) or (N, Q, D)."""
        available, mask = available_cells("AttentionFusion", z, mask, self.modality.shape)
        weights = self._attention(available, mask)
        values = rearrange(available, "n m (p d) -> n p m d", p=self.num_heads)
        with without_autocast(z):
            fused = rearrange(weights @ values, "n p e d -> n e (p d)")
        # A single query has no axis Q in the result.
        return (fused[:, 0] if self.query.shape[0] == 1 else fused).to(z.dtype)

    @override
    def extra_repr(self) -> str:
        m, dim = self.modality.shape
        queries = self.query.shape[0]
        return (
            f"num_modalities={m}, embedding_dim={dim}, num_heads={self.num_heads}, "
            f"num_queries={queries}"
        )


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the available entries of the last axis; all 0 if there is none."""
    any_available = mask.any(dim=-1, keepdim=True)
    # A row of -inf only would give NaN, so a row without any available entry keeps its scores.
    weights = torch.where(mask | ~any_available, scores, -torch.inf).softmax(dim=-1)
    return torch.where(mask, weights, 0.0)
