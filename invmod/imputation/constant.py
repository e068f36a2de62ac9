"""Fill every missing row of a modality with one constant row, and zeros."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._text import decode_text, encode_text
from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes


class ConstantImputer(Imputer):
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


class ZeroImputer(ConstantImputer):
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
    def _text_buffers(self) -> dict[str, Sequence[str | None]]:
        names = [None if dtype is None else _dtype_name(dtype) for dtype in self._dtypes]
        return {**super()._text_buffers(), "dtypes": names}

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
