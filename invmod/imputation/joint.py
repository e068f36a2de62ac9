"""Base of the imputers that predict missing modalities from the available ones of a row."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._precision import without_autocast
from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes, mask_columns


class JointImputer(Imputer):
    """Imputer that works on one table (N, D) in float64.

    The table holds all modalities side by side, flattened, centred and scaled, with 0 in missing
    cells. The centre of an entry is its mean over the observed training rows. Its scale is their
    standard deviation, or 1 without `standardize` and for a constant entry.
    """

    def __init__(self, modalities: Sequence[str], *, standardize: bool) -> None:
        super().__init__(modalities)
        self.standardize = standardize

    # --- methods of the subclasses

    @abstractmethod
    def _model_state_names(self) -> list[str]:
        """Return the names of the buffers other than centres and scales."""

    @abstractmethod
    def _fit_table(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        """Return these buffers, fitted on training rows x (n, D) with the mask a (n, M)."""

    @abstractmethod
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        """Return fills (n, D) for rows x (n, D) with the mask a (n, M).

        The caller uses only the entries where a is False. A fill of 0 is the training mean.
        """

    # --- fitting and filling

    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Fit on the given rows only.

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
        state: dict[str, Tensor] = {}
        for index, (name, modality_rows) in enumerate(
            zip(self.modalities, observed_rows, strict=True)
        ):
            x = features[name]
            values = x[modality_rows.to(x.device)].to(torch.float64)
            if not values.isfinite().all():
                raise ValueError(
                    f"{function}: modality {name!r} has NaN or an infinity in a row that the mask "
                    "marks as observed. Make the mask with `mask_from_features`."
                )
            scale = (
                values.std(dim=0, correction=0) if self.standardize else torch.ones_like(values[0])
            )
            state[f"centre_{index}"] = values.mean(dim=0)
            state[f"scale_{index}"] = torch.where(scale > 0, scale, 1.0)
        # `_table` reads centres and scales, so they are set before the table is built.
        for key, value in state.items():
            setattr(self, key, value)
        table, columns = self._table(function, features, mask)
        # The union of the observed rows leaves out rows without any modality.
        used = torch.unique(torch.cat(observed_rows)).to(table.device)
        for key, value in self._fit_table(table[used], columns[used]).items():
            setattr(self, key, value)
        return self

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        function = type(self).__name__
        if getattr(self, self._state_names()[0]) is None:
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")
        table, columns = self._table(function, features, mask)
        fills = torch.zeros_like(table)
        # Rows that have all modalities need no prediction.
        incomplete = (~columns.all(dim=1)).nonzero()[:, 0]
        if len(incomplete):
            with without_autocast(table):
                fills[incomplete] = self._predict(table[incomplete], columns[incomplete])
        filled = {}
        for index, (name, part) in enumerate(
            zip(self.modalities, torch.split(fills, self._sizes(), dim=1), strict=True)
        ):
            centre, scale = getattr(self, f"centre_{index}"), getattr(self, f"scale_{index}")
            fill = part.reshape(-1, *centre.shape) * scale + centre
            x = features.get(name)
            if x is None:
                filled[name] = fill.to(torch.get_default_dtype())
            else:
                # Select instead of adding, so that observed cells stay identical bit for bit.
                available = append_axes(columns[:, index].to(x.device), x)
                filled[name] = torch.where(available, x, fill.to(x.device, x.dtype))
        return filled, torch.ones_like(columns)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device; the fitted state stays in float64 if the model is cast."""
        # Apply `fn` to an empty tensor to learn the device that it moves to, and ignore its dtype.
        super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        return self

    # --- the table (N, D)

    @override
    def _state_names(self) -> list[str]:
        indices = range(len(self.modalities))
        return [
            f"{kind}_{index}" for kind in ("centre", "scale") for index in indices
        ] + self._model_state_names()

    def _sizes(self) -> list[int]:
        """Return the number of entries D_m of each modality; they sum to D."""
        return [
            math.prod(getattr(self, f"centre_{index}").shape)
            for index in range(len(self.modalities))
        ]

    def _expanded(self, a: Tensor) -> Tensor:
        """Repeat each column of a (n, M) for the entries of its modality: (n, D)."""
        return a.repeat_interleave(torch.tensor(self._sizes(), device=a.device), dim=1)

    def _table(
        self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[Tensor, Tensor]:
        """Return the table (N, D) and its mask (N, M), on the device of the fitted state."""
        num_rows = self._check_features(function, features, mask)
        device = self.get_buffer("centre_0").device
        columns = mask_columns(function, mask, self.modalities, num_rows).to(device)
        parts = []
        for index, name in enumerate(self.modalities):
            centre = getattr(self, f"centre_{index}")
            scale = getattr(self, f"scale_{index}")
            x = features.get(name)
            if x is None:
                if columns[:, index].any():
                    raise ValueError(
                        f"{function}: the mask marks {name!r} as available, but `features` "
                        "lacks it."
                    )
                parts.append(
                    torch.zeros((num_rows, centre.numel()), dtype=torch.float64, device=device)
                )
                continue
            if x.shape[1:] != centre.shape:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have shape (N, "
                    f"{', '.join(map(str, centre.shape))}) as in `fit`, got {tuple(x.shape)}."
                )
            wide = (x.detach().to(device, torch.float64) - centre) / scale
            # Select instead of multiplying, so that NaN in a missing cell becomes 0.
            parts.append(
                torch.where(append_axes(columns[:, index], wide), wide, 0.0).reshape(
                    num_rows, centre.numel()
                )
            )
        return torch.cat(parts, dim=1), columns

    @override
    def _state_error(self) -> str:
        kind = type(self).__name__
        absent = [name for name in self._state_names() if getattr(self, name) is None]
        if absent:
            # Either nothing was loaded, or the base class reports the missing keys.
            return ""
        for index in range(len(self.modalities)):
            centre, scale = getattr(self, f"centre_{index}"), getattr(self, f"scale_{index}")
            if centre.shape != scale.shape:
                return (
                    f"{kind}: `centre_{index}` and `scale_{index}` of the state must have the same "
                    "shape."
                )
        return self._model_state_error(
            self._sizes(), {name: getattr(self, name) for name in self._model_state_names()}
        )

    @abstractmethod
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        """Return a message about the buffers other than centres and scales, or an empty string."""


def shape_error(
    kind: str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> str:
    """Return a message about the first buffer with a wrong shape, or an empty string."""
    for name, shape in expected.items():
        loaded_shape = tuple(state[name].shape)
        if loaded_shape != shape:
            return f"{kind}: `{name}` of the state must have shape {shape}, got {loaded_shape}."
    return ""
