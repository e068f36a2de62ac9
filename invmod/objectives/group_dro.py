"""Group DRO: environment weights that grow with the risk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_count, check_risks, describe_type, values_are_known


class GroupDRO(nn.Module):
    r"""Group distributionally robust optimisation: a weighted risk that emphasises high risks.

    .. math::
        q_e \leftarrow \frac{q_e \exp(\eta R_e)}{\sum_f q_f \exp(\eta R_f)}, \qquad
        J = \sum_e q_e R_e

    where :math:`R_e` are the risks, q are the weights and :math:`\eta` is `step_size`. In training
    mode q is updated first, and the loss uses the new q without a gradient through it; in eval mode
    q is fixed. Call the module once per step with the risks of the whole batch: with gradient
    accumulation or several ranks, reduce the risks first.

    Arguments:
        num_envs: E, at least 1.
        step_size: :math:`\eta`, not negative. At 0 the weights stay uniform.

    Attributes:
        log_weights: log q (E,), a buffer in float64, initially uniform. It stays float64 under
            ``.half()`` and similar calls, because a weight that underflows in float32 could never
            grow again.

    Raises:
        TypeError: `num_envs` is not an int.
        ValueError: `num_envs` is below 1, or `step_size` is negative or not finite.

    References:
        Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020,
        Algorithm 1.

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
        num_envs = check_count("GroupDRO", "num_envs", num_envs)
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
        """Return q (E,) in float64, non-negative with sum 1."""
        return self.log_weights.exp()

    @override
    def forward(self, risks: Tensor, *, present: Tensor | None = None) -> Tensor:
        """Update q in training mode, and return the weighted sum of the risks.

        Arguments:
            risks: (E,).
            present: bool (E,), True for environments with samples in this step; None means all. An
                absent environment keeps its q and does not contribute to the loss, even if its risk
                is NaN. The total weight of the present environments is unchanged, so their weights
                in the loss sum to less than 1.

        Returns:
            a scalar in float32 or wider. If a present environment's risk is NaN or infinite, q is
            not updated and the loss is not finite.

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
            # A risk of NaN times a weight of 0 would be NaN, so absent risks are replaced.
            wide = torch.where(present, wide, 0.0)
        if self.training:
            self._update(wide.detach().double(), present)
        weights = self.weights if present is None else torch.where(present, self.weights, 0.0)
        return (weights.detach().clone().to(wide.dtype) * wide).sum()

    @torch.no_grad()
    def _update(self, risks: Tensor, present: Tensor | None) -> None:
        """Add eta R to log q; keep the total weight of the present environments constant."""
        old = self.log_weights
        new = old + self.step_size * risks
        if present is None:
            new = new.log_softmax(dim=0)
        else:
            log_zero = old.new_full((), -math.inf)
            total = torch.where(present, old, log_zero).logsumexp(dim=0)
            new_total = torch.where(present, new, log_zero).logsumexp(dim=0)
            new = torch.where(present, new - new_total + total, old)
        # Selecting on the device, instead of branching, needs no synchronisation.
        self.log_weights.copy_(torch.where(risks.isfinite().all(), new, old))

    def _check_present(self, present: Tensor) -> None:
        if not isinstance(present, Tensor) or present.dtype != torch.bool:
            raise TypeError(
                f"GroupDRO: `present` must be a bool tensor, got {describe_type(present)}"
            )
        if present.shape != (self.num_envs,):
            raise ValueError(
                f"GroupDRO: `present` must have shape (E,) = ({self.num_envs},), got "
                f"{tuple(present.shape)}."
            )
        if values_are_known(present) and not present.any():
            raise ValueError("GroupDRO: no environment is present. Skip a step without samples.")

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn` to the module, but move `log_weights` without changing its dtype or values."""
        # `fn` may cast to half precision, so the buffer is copied from the original values. Meta
        # tensors have none; their result can only be cast back to float64.
        old = self.log_weights
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self.log_weights
        self.log_weights = moved.double() if old.is_meta or moved.is_meta else old.to(moved.device)
        return self

    @override
    def extra_repr(self) -> str:
        return f"{self.num_envs}, step_size={self.step_size}"
