"""Fill every missing row of a modality with one constant row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.base import Imputer
from invmod.imputation.names import decode_text, encode_text
from invmod.missingness.masks import ROWS_AT_ONCE, MaskLike, append_axes


class _ConstantImputer(Imputer):
    """Fill a modality's missing rows with one constant row, a buffer ``fill_<index>``."""

    @override
    def _state_names(self) -> list[str]:
        return [f"fill_{index}" for index in range(len(self.modalities))]

    @abstractmethod
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Compute the constant of each modality from the given rows only.

        Arguments:
            features: modality name -> (N, ...), exactly the names of `modalities`. The content of
                masked cells is never read.
            mask: bool (N, M) or name -> (N,), True for the observed cells.
            rows: int64 (n,), the training rows; None means all N. They are read in blocks, without
                a second copy of the table.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit. For a mean also: a modality has no
                observed row, or an observed row contains NaN.
        """

    def _set_fills(self, fills: Sequence[Tensor | None], **others: Tensor) -> None:
        self._set_state({f"fill_{index}": fill for index, fill in enumerate(fills)} | others)

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the unavailable rows.

        Arguments:
            features: modality name -> (N, ...). A modality that is absent or None is missing in all
                rows, so all of them are filled.
            mask: bool (N, M) or name -> (N,), True for the available cells.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M). Available
            cells are returned unchanged, NaN included.

        Raises:
            RuntimeError: the imputer is not fitted, or no row so far had one of the modalities.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit, or the mask marks a modality as
                available that is absent or None.
        """
        function = type(self).__name__
        without_fill = [
            name
            for index, name in enumerate(self.modalities)
            if getattr(self, f"fill_{index}") is None
        ]
        if len(without_fill) == len(self.modalities):
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")
        if without_fill:
            raise RuntimeError(
                f"{function}: not fitted yet for {without_fill}: no row so far had them. "
                "Call `partial_fit` with rows that have them."
            )
        num_rows = self._check_features(function, features, mask)
        columns = self._mask_columns(function, features, mask, num_rows)
        filled = {}
        for index, name in enumerate(self.modalities):
            fill: Tensor = getattr(self, f"fill_{index}")
            x = features.get(name)
            if x is None:
                # A copy: the caller may change the result without changing the fitted buffer.
                filled[name] = fill.to(self._absent_dtype(index)).repeat(
                    num_rows, *(1,) * fill.ndim
                )
                continue
            self._check_row(function, name, x, fill.shape)
            # Select instead of multiplying by the mask, because missing rows may hold NaN.
            filled[name] = torch.where(append_axes(columns[:, index], x), x, fill.to(x.dtype))
        return filled, torch.ones_like(columns)

    def _absent_dtype(self, index: int) -> torch.dtype:
        """Return the dtype of the fills of a modality that is absent."""
        fill: Tensor = getattr(self, f"fill_{index}")
        return fill.dtype


class ZeroImputer(_ConstantImputer):
    r"""Fill missing rows with zeros.

    .. math::
        \hat x_{nm} = a_{nm} x_{nm}

    where :math:`x_{nm}` is the feature of sample n and modality m, and :math:`a_{nm}` is 1 where
    the mask is True. Features of every dtype can be filled, False standing for zero in bools. It
    can be exported and compiled with any number of rows.

    Arguments:
        modalities: the M names in the order of the mask's columns.

    Example:
        >>> features = {"text": torch.tensor([[1.0, 2.0], [float("nan"), 4.0]])}
        >>> mask = torch.tensor([[True], [False]])
        >>> filled, usable = ZeroImputer(["text"]).fit(features, mask)(features, mask)
        >>> filled["text"], usable
        (tensor([[1., 2.],
                [0., 0.]]), tensor([[True],
                [True]]))
    """

    _fills_integers = True

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        # The dtypes of integer and bool features, and None for all others.
        self._dtypes: list[torch.dtype | None] = [None] * len(self.modalities)

    @override
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        self._observed_rows("ZeroImputer.fit", features, mask, rows)
        tables = [features[name] for name in self.modalities]
        fills = [
            torch.zeros(x.shape[1:], dtype=_buffer_dtype(x.dtype), device=x.device) for x in tables
        ]
        dtypes = encode_text([_dtype_name(x.dtype) for x in tables], tables[0].device)
        self._set_fills(fills, dtypes=dtypes)
        return self

    @override
    def _state_names(self) -> list[str]:
        return [*super()._state_names(), "dtypes"]

    @override
    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        # Decoded once, because traced code cannot read the values of a buffer.
        codes = getattr(self, "dtypes", None)
        names = None if codes is None or codes.is_meta else decode_text(codes)
        self._dtypes = [
            None if name is None else getattr(torch, name)
            for name in names or [None] * len(self.modalities)
        ]

    @override
    def _absent_dtype(self, index: int) -> torch.dtype:
        return self._dtypes[index] or super()._absent_dtype(index)

    @override
    def _current_form(self, state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Return a copy of a state in which integers and bools of older versions are float."""
        state = dict(state_dict)
        keys = [f"{prefix}{name}" for name in super()._state_names()]
        fills = {key: state[key] for key in keys if isinstance(state.get(key), Tensor)}
        if f"{prefix}dtypes" not in state and len(fills) == len(keys):
            names = [_dtype_name(fill.dtype) for fill in fills.values()]
            state[f"{prefix}dtypes"] = encode_text(names)
        return state | {key: fill.to(_buffer_dtype(fill.dtype)) for key, fill in fills.items()}


def _buffer_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a buffer of zeros for features of this dtype."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.float32


def _dtype_name(dtype: torch.dtype) -> str | None:
    """Return the name of a dtype that differs from the dtype of its buffer, or None."""
    return None if _buffer_dtype(dtype) == dtype else str(dtype).removeprefix("torch.")


class _RunningSum(NamedTuple):
    """Sum in float64 of a modality's observed rows so far, their number, and the mean's dtype."""

    total: Tensor
    num_rows: int
    dtype: torch.dtype

    def mean(self) -> Tensor:
        """Return the mean, the fill of the modality."""
        return (self.total / self.num_rows).to(self.dtype)


class MeanImputer(_ConstantImputer):
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
        sums = self._updated_sums("MeanImputer.fit", features, mask, rows, no_sums)
        for name, running_sum in zip(self.modalities, sums, strict=True):
            if running_sum is None:
                raise ValueError(
                    f"MeanImputer.fit: modality {name!r} is observed in none of the given rows, so "
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
        self._set_sums(self._updated_sums(function, features, mask, rows, self._sums))
        return self

    def _updated_sums(
        self,
        function: str,
        features: Mapping[str, Tensor],
        mask: MaskLike,
        rows: Tensor | None,
        before: Sequence[_RunningSum | None],
    ) -> list[_RunningSum | None]:
        """Return the sums `before`, one per modality, with the given rows added."""
        # A block may lack a modality, unlike all rows together.
        all_needed = function.endswith(".fit")
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
