"""Base of the imputers that predict missing modalities from the available ones of a row."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._precision import without_autocast
from invmod._scale import standard_deviation
from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes


class TableImputer(Imputer):
    """Imputer that fills from one table (N, D) in float64.

    The table holds all modalities side by side, flattened, centred and scaled, with 0 in missing
    cells. The centre of an entry is its mean over the observed training rows. Its scale is their
    standard deviation, or 1 without `standardize` and for a constant entry.
    """

    _keeps_dtype = True  # float64

    # --- methods of the subclasses

    @abstractmethod
    def _model_state_names(self) -> list[str]:
        """Return the names of the buffers other than centres and scales."""

    @abstractmethod
    def _fills(self, x: Tensor, a: Tensor) -> Tensor:
        """Return fills (N, D) for rows x (N, D) with the mask a (N, M).

        The caller uses only the entries where a is False. A fill of 0 is the training mean.
        """

    @abstractmethod
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        """Return a message about the buffers other than centres and scales, or an empty string."""

    # --- filling

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        function = type(self).__name__
        self._check_fitted(function)
        centres, scales = self._units()
        table, columns = self._table(function, features, mask, centres, scales)
        with without_autocast(table):
            fills = self._fills(table, columns)
        # A row with NaN or an infinity in an available cell has no prediction. Its fills are NaN,
        # so that a broken row stays visible.
        fills = torch.where(table.isfinite().all(dim=1, keepdim=True), fills, torch.nan)
        filled = {}
        for index, (name, part) in enumerate(
            zip(self.modalities, torch.split(fills, self._sizes(), dim=1), strict=True)
        ):
            centre, scale = centres[index], scales[index]
            fill = part.reshape(part.shape[0], *centre.shape) * scale + centre
            x = features.get(name)
            if x is None:
                filled[name] = fill.to(torch.get_default_dtype())
            else:
                # Select instead of adding, so that observed cells stay identical bit for bit.
                available = append_axes(columns[:, index].to(x.device), x)
                filled[name] = torch.where(available, x, fill.to(x.device, x.dtype))
        return filled, torch.ones_like(columns)

    # --- the table (N, D)

    @override
    def _state_names(self) -> list[str]:
        indices = range(len(self.modalities))
        return [
            f"{kind}_{index}" for kind in ("centre", "scale") for index in indices
        ] + self._model_state_names()

    def _set_fitted(
        self, centres: Sequence[Tensor], scales: Sequence[Tensor], model: Mapping[str, Tensor]
    ) -> None:
        """Replace the state by centres, scales and the buffers of the model."""
        state = {f"centre_{index}": centre for index, centre in enumerate(centres)}
        state |= {f"scale_{index}": scale for index, scale in enumerate(scales)}
        self._set_state(state | dict(model))

    def _units(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the centres and the scales of the modalities."""
        indices = range(len(self.modalities))
        # Not `get_buffer`, which torch.compile does not trace in torch 2.8.
        return [getattr(self, f"centre_{index}") for index in indices], [
            getattr(self, f"scale_{index}") for index in indices
        ]

    def _sizes(self) -> list[int]:
        """Return the number of entries D_m of each modality; they sum to D."""
        return [math.prod(centre.shape) for centre in self._units()[0]]

    def _table(
        self,
        function: str,
        features: Mapping[str, Tensor | None],
        mask: MaskLike,
        centres: Sequence[Tensor],
        scales: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the table (N, D) and its mask (N, M), on the device of the centres."""
        num_rows = self._check_features(function, features, mask)
        device = centres[0].device
        columns = self._mask_columns(function, features, mask, num_rows).to(device)
        parts = []
        for index, (name, centre, scale) in enumerate(
            zip(self.modalities, centres, scales, strict=True)
        ):
            x = features.get(name)
            if x is None:
                parts.append(centre.new_zeros(num_rows, centre.numel()))
                continue
            self._check_row(function, name, x, centre.shape)
            wide = (x.detach().to(device, torch.float64) - centre) / scale
            # Select instead of multiplying, so that NaN in a missing cell becomes 0.
            wide = torch.where(append_axes(columns[:, index], wide), wide, 0.0)
            parts.append(wide.reshape(num_rows, centre.numel()))
        return torch.cat(parts, dim=1), columns

    @override
    def _state_error(self) -> str:
        kind = type(self).__name__
        if any(getattr(self, name) is None for name in self._state_names()):
            # Either nothing was loaded, or the base class reports the missing keys.
            return ""
        for index, (centre, scale) in enumerate(zip(*self._units(), strict=True)):
            if centre.shape != scale.shape:
                return (
                    f"{kind}: `centre_{index}` and `scale_{index}` of the state must have the same "
                    "shape."
                )
        return self._model_state_error(
            self._sizes(), {name: getattr(self, name) for name in self._model_state_names()}
        )


class JointImputer(TableImputer):
    """Table imputer that is fitted on training rows and predicts the incomplete rows of a call."""

    def __init__(self, modalities: Sequence[str], *, standardize: bool) -> None:
        super().__init__(modalities)
        self.standardize = standardize

    @abstractmethod
    def _fit_table(self, x: Tensor, a: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        """Return the model's buffers, fitted on training rows x (n, D) with the mask a (n, M).

        `sizes` are the numbers of entries of the modalities. The method changes no buffer.
        """

    @abstractmethod
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        """Return fills (n, D) for incomplete rows x (n, D) with the mask a (n, M)."""

    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Fit on the given rows only. If an error is raised, the imputer is left as it was.

        Arguments:
            features: modality name -> (N, ...), floating point, exactly the names of `modalities`.
                The content of masked cells is never read.
            mask: bool (N, M) or name -> (N,), True for the observed cells.
            rows: int64 (n,), the training rows; None means all N.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit, a modality is observed in none of
                the rows, or an observed row contains NaN.
        """
        function = f"{type(self).__name__}.fit"
        observed_rows = self._observed_rows(function, features, mask, rows)
        for name, modality_rows in zip(self.modalities, observed_rows, strict=True):
            if not features[name].is_floating_point():
                raise TypeError(
                    f"{function}: modality {name!r} must be floating point, "
                    f"got {features[name].dtype}."
                )
            if len(modality_rows) == 0:
                raise ValueError(
                    f"{function}: modality {name!r} is observed in none of the given rows, so it "
                    "cannot be fitted. Give rows that have it, or leave the modality out."
                )
        units = [
            self._fitted_units(f"{function}: modality {name!r}", features[name], modality_rows)
            for name, modality_rows in zip(self.modalities, observed_rows, strict=True)
        ]
        centres, scales = [centre for centre, _ in units], [scale for _, scale in units]
        table, columns = self._table(function, features, mask, centres, scales)
        # The union of the observed rows leaves out rows without any modality.
        used = torch.unique(torch.cat(observed_rows)).to(table.device)
        sizes = [math.prod(centre.shape) for centre in centres]
        model = self._fit_table(table[used], columns[used], sizes)
        self._set_fitted(centres, scales, model)
        return self

    def _fitted_units(self, where: str, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centre and the scale of one modality; `where` begins an error message."""
        values = x[rows.to(x.device)].to(torch.float64)
        if not values.isfinite().all():
            raise ValueError(
                f"{where} has NaN or an infinity in a row that the mask marks as observed. Make "
                "the mask with `mask_from_features`."
            )
        deviation = standard_deviation(values)
        constant = deviation == 0
        # The mean of equal values can differ from them by rounding.
        centre = torch.where(constant, values[0], values.mean(dim=0))
        unscaled = constant if self.standardize else torch.ones_like(constant)
        return centre, torch.where(unscaled, 1.0, deviation)

    @override
    def _fills(self, x: Tensor, a: Tensor) -> Tensor:
        fills = torch.zeros_like(x)
        # Rows that have all modalities need no prediction.
        incomplete = (~a.all(dim=1)).nonzero()[:, 0]
        if len(incomplete):
            fills[incomplete] = self._predict(x[incomplete], a[incomplete])
        return fills


def expand_columns(a: Tensor, sizes: list[int]) -> Tensor:
    """Repeat each column of a (n, M) for the entries of its modality: (n, D)."""
    return a.repeat_interleave(torch.tensor(sizes, device=a.device), dim=1)


def shape_error(
    kind: str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> str:
    """Return a message about the first buffer with a wrong shape, or an empty string."""
    for name, shape in expected.items():
        loaded_shape = tuple(state[name].shape)
        if loaded_shape != shape:
            return f"{kind}: `{name}` of the state must have shape {shape}, got {loaded_shape}."
    return ""
