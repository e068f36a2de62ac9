"""Fill missing rows with the mean of the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.constant import ConstantImputer
from invmod.missingness.masks import ROWS_AT_ONCE, MaskLike


class _RunningSum(NamedTuple):
    """Sum in float64 of a modality's observed rows so far, their number, and the mean's dtype."""

    total: Tensor
    num_rows: int
    dtype: torch.dtype

    def mean(self) -> Tensor:
        """Return the mean, the fill of the modality."""
        return (self.total / self.num_rows).to(self.dtype)


class MeanImputer(ConstantImputer):
    r"""Fill missing rows with the mean of the observed training rows, as MILK does for Eq. 18.

    .. math::
        \mu_m = \frac{\sum_{n \in \mathrm{rows}} a_{nm} x_{nm}}{\sum_{n \in \mathrm{rows}} a_{nm}}

    where :math:`x_{nm}` is the feature of sample n and modality m, :math:`a_{nm}` is 1 where the
    mask is True, and rows are the training rows. The sums are in float64 for every dtype of the
    features, because sums in float16 overflow. For features larger than memory, call `partial_fit`
    block by block. A fitted imputer can be exported and compiled with any number of rows.

    Arguments:
        modalities: the M names in the order of the mask's columns.

    References:
        Bai et al., SIGIR 2024, sections 4.4 and 5.1.1.

    Example:
        >>> features = {"text": torch.tensor([[1.0], [3.0], [100.0], [float("nan")]])}
        >>> mask = torch.tensor([[True], [True], [True], [False]])
        >>> imputer = MeanImputer(["text"]).fit(features, mask, rows=torch.tensor([0, 1, 3]))
        >>> imputer(features, mask)[0]["text"][:, 0]
        tensor([  1.,   3., 100.,   2.])
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        # The sums are not part of the state, so `partial_fit` cannot resume from a loaded imputer.
        self._sums: list[_RunningSum | None] = [None] * len(self.modalities)

    @override
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        no_sums = [None] * len(self.modalities)
        function = "MeanImputer.fit"
        sums = self._updated_sums(function, features, mask, rows, no_sums, all_needed=True)
        for name, running_sum in zip(self.modalities, sums, strict=True):
            if running_sum is None:
                raise ValueError(
                    f"{function}: modality {name!r} is observed in none of the given rows, so "
                    "it has no mean. Give rows that have it, or leave the modality out."
                )
        self._set_sums(sums)
        return self

    def partial_fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Update the means with further rows, as if all rows had been given to `fit` at once.

        `fit` discards earlier rows; `partial_fit` keeps them. The sums behind the means are not
        part of a ``state_dict``, so `partial_fit` does not work on a loaded imputer. Until every
        modality was observed in some row, calling the imputer is an error.

        Arguments:
            features: modality name -> (N, ...), a block of rows. A modality that is absent or None
                is missing in all of them.
            mask: bool (N, M) or name -> (N,), True for the observed cells.
            rows: int64 (n,), the training rows of the block; None means all N.

        Returns:
            itself.

        Raises:
            RuntimeError: the means were loaded.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit each other or those of earlier rows,
                or an observed row contains NaN.

        Example:
            >>> imputer = MeanImputer(["text"])
            >>> for block in (torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])):
            ...     mask = torch.ones(len(block), 1, dtype=torch.bool)
            ...     imputer = imputer.partial_fit({"text": block}, mask)
            >>> imputer({}, torch.zeros(1, 1, dtype=torch.bool))[0]["text"]
            tensor([[3.]])
        """
        # A fill without a sum comes from a loaded state.
        if any(
            running_sum is None and getattr(self, f"fill_{index}") is not None
            for index, running_sum in enumerate(self._sums)
        ):
            raise RuntimeError(
                "MeanImputer.partial_fit: the means were loaded, and the sums behind them are not "
                "saved. Call `fit`, or begin with a new imputer."
            )
        function = "MeanImputer.partial_fit"
        # A block may lack a modality, unlike all rows together.
        sums = self._updated_sums(function, features, mask, rows, self._sums, all_needed=False)
        self._set_sums(sums)
        return self

    def _updated_sums(
        self,
        function: str,
        features: Mapping[str, Tensor],
        mask: MaskLike,
        rows: Tensor | None,
        before: Sequence[_RunningSum | None],
        *,
        all_needed: bool,
    ) -> list[_RunningSum | None]:
        """Return the sums `before`, one per modality, with the given rows added."""
        observed_rows = self._observed_rows(function, features, mask, rows, all_needed=all_needed)
        return [
            running_sum
            if features.get(name) is None
            else _add_rows(f"{function}: modality {name!r}", running_sum, features[name], some_rows)
            for name, running_sum, some_rows in zip(
                self.modalities, before, observed_rows, strict=True
            )
        ]

    def _set_sums(self, sums: list[_RunningSum | None]) -> None:
        # A modality without a sum has no fill, which `forward` reports.
        self._sums = sums
        self._set_fills(
            [None if running_sum is None else running_sum.mean() for running_sum in sums]
        )

    @override
    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        """Discard the sums of the means that a loaded state has replaced."""
        self._sums = [
            None if f"fill_{index}" in loaded else running_sum
            for index, running_sum in enumerate(self._sums)
        ]


def _add_rows(
    where: str, before: _RunningSum | None, values: Tensor, rows: Tensor
) -> _RunningSum | None:
    """Add the given rows of one modality to `before`, block by block, in float64.

    `where` is the start of error messages. Nothing is changed before the checks have passed.
    """
    if not values.is_floating_point():
        raise TypeError(f"{where} must be floating point to have a mean, got {values.dtype}.")
    if before is not None and before.total.shape != values.shape[1:]:
        raise ValueError(
            f"{where} must have shape (N, {', '.join(map(str, before.total.shape))}) as in the "
            f"rows before, got {tuple(values.shape)}."
        )
    if len(rows) == 0:
        return before
    total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
    # Blocks bound the memory: indexing with all rows would copy the table.
    for block in torch.split(rows, ROWS_AT_ONCE):
        total += values[block.to(values.device)].to(torch.float64).sum(dim=0)
    # One NaN or infinity in any row makes the sum not finite, so checking the sum is enough.
    if not total.isfinite().all():
        raise ValueError(
            f"{where} has NaN or an infinity in a row that the mask marks as observed. Make the "
            "mask with `mask_from_features`."
        )
    dtype = torch.promote_types(values.dtype, torch.float32)
    if before is None:
        return _RunningSum(total, len(rows), dtype)
    total += before.total.to(total.device)
    return _RunningSum(total, before.num_rows + len(rows), torch.promote_types(dtype, before.dtype))
