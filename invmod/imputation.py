"""Imputation: fill what is missing. Fit on training rows, then call on any rows.

An imputer returns ``(features, usable)``. `usable` says which cells may be encoded and fused, here all of them; the
mask of what was observed stays with the caller, for alignment, statistics and reports.

An unfitted imputer has no key in a ``state_dict``, and loading a state without any of its keys leaves it unfitted.
A state that has some of them only is incomplete: a strict load reports those that are missing. A fitted imputer
keeps its device and dtype on loading, an unfitted one takes those of what is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod.missingness import (
    ROWS_AT_ONCE,
    MaskLike,
    append_axes,
    check_names,
    checked_rows,
    mask_columns,
)


class _ConstantImputer(nn.Module, ABC):
    """Fill a modality's missing rows with one constant row, a buffer ``fill_<index>``."""

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = check_names(type(self).__name__, modalities)
        for index in range(len(self.modalities)):
            self.register_buffer(f"fill_{index}", None)

    def fit(self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None) -> Self:
        """Learn the constant of each modality from the given rows alone.

        Arguments:
            features: modality name -> (N, ...), exactly the names of `modalities`; what lies in masked cells is
                never read.
            mask: bool (N, M) or name -> (N,): what is observed.
            rows: int64 (n,), the training rows; all N where None. Read in blocks: no second copy of the table.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit; for a mean also: no observed row, or one with NaN.
        """
        function = f"{type(self).__name__}.fit"
        absent = [name for name in self.modalities if features.get(name) is None]
        if absent:
            raise KeyError(f"{function}: `features` lacks the modalities {absent}.")
        num_rows = self._check(function, features, None)
        columns = mask_columns(function, mask, self.modalities, num_rows)
        chosen = checked_rows(function, rows, num_rows, columns.device)
        fills = [
            self._fill(name, features[name], chosen[columns[chosen, index]])
            for index, name in enumerate(self.modalities)
        ]
        for index, fill in enumerate(fills):
            setattr(self, f"fill_{index}", fill)
        return self

    @abstractmethod
    def _fill(self, name: str, values: Tensor, rows: Tensor) -> Tensor:
        """Return the constant of one modality, computed from `rows`, which have it."""

    @override
    def forward(self, features: Mapping[str, Tensor | None], mask: MaskLike) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the unavailable rows.

        Arguments:
            features: modality name -> (N, ...); a name that is absent or None is filled throughout.
            mask: bool (N, M) or name -> (N,): what is available.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M).

        Raises:
            RuntimeError: not fitted.
            KeyError: an unknown modality.
            TypeError, ValueError: shapes or types do not fit.
        """
        function = type(self).__name__
        if any(getattr(self, f"fill_{index}") is None for index in range(len(self.modalities))):
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")
        num_rows = self._check(function, features, mask)
        columns = mask_columns(function, mask, self.modalities, num_rows)
        filled = {}
        for index, name in enumerate(self.modalities):
            fill: Tensor = getattr(self, f"fill_{index}")
            x = features.get(name)
            if x is None:
                filled[name] = fill.expand(num_rows, *fill.shape).clone()  # never a view of the buffer
                continue
            if x.shape[1:] != fill.shape:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have shape (N, "
                    f"{', '.join(map(str, fill.shape))}) as in `fit`, got {tuple(x.shape)}."
                )
            filled[name] = torch.where(append_axes(columns[:, index], x), x, fill.to(x.dtype))
        return filled, torch.ones_like(columns)

    def _check(self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike | None) -> int:
        """Return N after checking names and rows."""
        unknown = [name for name in features if name not in self.modalities]
        if unknown:
            raise KeyError(f"{function}: `features` has modalities {unknown} that are not among {self.modalities}.")
        given = {name: x for name, x in features.items() if x is not None}
        for name, x in given.items():
            if not isinstance(x, Tensor):
                raise TypeError(f"{function}: the feature of {name!r} must be a tensor, got {type(x).__name__}.")
            if x.ndim == 0:
                raise ValueError(f"{function}: the feature of {name!r} must have shape (N, ...), got a scalar.")
        rows = {name: x.shape[0] for name, x in given.items()}
        if mask is not None:
            column = next(iter(mask.values()), None) if isinstance(mask, Mapping) else mask
            if isinstance(column, Tensor) and column.ndim:  # else `mask_columns` says what is wrong with it
                rows["mask"] = column.shape[0]
        if len(set(rows.values())) > 1:
            raise ValueError(f"{function}: modalities and mask must have equal numbers of rows, got {rows}.")
        return next(iter(rows.values()), 0)  # without any, `mask_columns` says what is wrong with the mask

    @override
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Give the buffers the shapes of what is loaded, so that an unfitted imputer can be restored."""
        names = [f"fill_{index}" for index in range(len(self.modalities))]
        partial = strict and any(f"{prefix}{name}" in state_dict for name in names)
        for name in names:
            saved, existing = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if isinstance(saved, Tensor):
                empty = torch.empty_like(saved) if existing is None else existing.new_empty(saved.shape)
                setattr(self, name, empty)
            elif partial and existing is None:  # of buffers that are None, the base class knows nothing
                missing_keys.append(f"{prefix}{name}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class ZeroImputer(_ConstantImputer):
    """Fill missing rows with zeros.

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

    @override
    def _fill(self, name: str, values: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(values.shape[1:], dtype=values.dtype, device=values.device)


class MeanImputer(_ConstantImputer):
    r"""Fill missing rows with the mean of the observed training rows, the imputation of MILK's Eq. 18.

    .. math::
        \mu_m = \frac{\sum_{n \in \mathrm{rows}} a_{nm} x_{nm}}{\sum_{n \in \mathrm{rows}} a_{nm}}

    summed in float64 whatever the dtype of the features (float16 sums overflow).

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

    @override
    def _fill(self, name: str, values: Tensor, rows: Tensor) -> Tensor:
        if not values.is_floating_point():
            raise TypeError(
                f"MeanImputer.fit: the feature of {name!r} must be floating point to have a mean, got {values.dtype}."
            )
        if len(rows) == 0:
            raise ValueError(
                f"MeanImputer.fit: modality {name!r} is observed in none of the given rows, so it "
                "has no mean. Give rows that have it, or leave the modality out."
            )
        total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
        for block in torch.split(rows, ROWS_AT_ONCE):
            total += values[block.to(values.device)].to(torch.float64).sum(dim=0)
        if not total.isfinite().all():
            raise ValueError(
                f"MeanImputer.fit: modality {name!r} has NaN or an infinity in a row that the mask "
                "calls observed. Make the mask with `mask_from_features`."
            )
        mean = total / len(rows)
        return mean.to(torch.promote_types(values.dtype, torch.float32))
