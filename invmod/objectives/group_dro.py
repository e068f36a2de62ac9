"""Group DRO: weights of the environments that follow their risks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_risks


class GroupDRO(nn.Module):
    r"""Group distributionally robust optimisation: the risks under weights that grow where the risk is high.

    .. math::
        q_e \leftarrow \frac{q_e \exp(\eta R_e)}{\sum_f q_f \exp(\eta R_f)}, \qquad J = \sum_e q_e R_e

    In training mode q is updated first and the loss uses the new q, without a gradient through it; in eval mode q
    stays. Call it once a step, on the risks of the whole batch: under accumulation or on several ranks reduce them
    first.

    Arguments:
        num_envs: E, at least 1.
        step_size: :math:`\eta`, not negative. At 0 the weights stay uniform.

    Attributes:
        log_weights: log q (E,), a buffer in float64, which stays float64 under ``.half()`` and the like: in float32 a
            weight that has become small could never grow back. Starts uniform.

    Raises:
        ValueError: `num_envs` is no int of at least 1, or `step_size` is negative or not finite.

    References:
        Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020, Algorithm 1.

    Example:
        >>> dro = GroupDRO(2, step_size=math.log(3.0))
        >>> dro(torch.tensor([0.0, 1.0]))  # q goes from (1/2, 1/2) to (1/4, 3/4)
        tensor(0.7500)
        >>> dro.weights
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    log_weights: Tensor

    def __init__(self, num_envs: int, *, step_size: float) -> None:
        super().__init__()
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(
                f"GroupDRO: `num_envs` must be an int of at least 1, got {num_envs!r}."
            )
        if not (math.isfinite(step_size) and step_size >= 0):
            raise ValueError(
                f"GroupDRO: `step_size` must be finite and not negative, got {step_size}."
            )
        self.num_envs = num_envs
        self.step_size = step_size
        self.register_buffer(
            "log_weights", torch.full((num_envs,), -math.log(num_envs), dtype=torch.float64)
        )

    @property
    def weights(self) -> Tensor:
        """Return q (E,), in float64, not negative and of sum 1."""
        return self.log_weights.exp()

    @override
    def forward(self, risks: Tensor, *, present: Tensor | None = None) -> Tensor:
        """Update q in training mode, and weigh the risks with it.

        Arguments:
            risks: (E,).
            present: bool (E,), which environments have samples in this step; all where None. An absent one keeps its
                q and has no part in the loss, whatever its risk, NaN included; the others share the rest among
                themselves, so the loss is a weighted sum whose weights sum to less than 1.

        Returns:
            a scalar in float32 or wider. A risk of NaN or infinity of a present environment leaves q as it was; the
            loss is then not finite either.

        Raises:
            TypeError: risks are not floating point, or `present` is not bool.
            ValueError: shapes do not fit, or no environment is present.
        """
        check_risks("GroupDRO", risks)
        if risks.shape[0] != self.num_envs:
            raise ValueError(
                f"GroupDRO: `risks` must have E = {self.num_envs} entries, got {risks.shape[0]}."
            )
        wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
        if present is not None:
            self._check_present(present)
            wide = torch.where(present, wide, 0.0)
        if self.training:
            self._update(wide.detach().double(), present)
        weights = self.weights if present is None else torch.where(present, self.weights, 0.0)
        return (weights.detach().clone().to(wide.dtype) * wide).sum()

    @torch.no_grad()
    def _update(self, risks: Tensor, present: Tensor | None) -> None:
        old = self.log_weights
        new = old + self.step_size * risks
        if present is None:
            new = new.log_softmax(dim=0)
        else:
            least = old.new_full((), -math.inf)
            share = torch.where(present, old, least).logsumexp(dim=0)
            new = torch.where(
                present, new - torch.where(present, new, least).logsumexp(dim=0) + share, old
            )
        self.log_weights.copy_(torch.where(risks.isfinite().all(), new, old))

    def _check_present(self, present: Tensor) -> None:
        if present.dtype != torch.bool:
            raise TypeError(f"GroupDRO: `present` must have dtype torch.bool, got {present.dtype}.")
        if present.shape != (self.num_envs,):
            raise ValueError(
                f"GroupDRO: `present` must have shape (E,) = ({self.num_envs},), got {tuple(present.shape)}."
            )
        if not torch.compiler.is_compiling() and not present.any():
            raise ValueError("GroupDRO: no environment is present. Skip a step without samples.")

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffer to where `fn` moves things, but keep its dtype and its digits."""
        old = self.log_weights
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self.log_weights
        self.log_weights = moved.double() if old.is_meta or moved.is_meta else old.to(moved.device)
        return self

    @override
    def extra_repr(self) -> str:
        return f"{self.num_envs}, step_size={self.step_size}"
