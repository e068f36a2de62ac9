"""Imputers that read what a sample has in order to fill what it lacks: their scale, their input and their output."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes, mask_columns


class JointImputer(Imputer):
    """Works on one table (N, D) in float64, all modalities side by side, centred and scaled, with 0 where missing.

    The centre of an entry is its mean over the observed training rows, its scale their standard deviation (or 1).
    """

    def __init__(self, modalities: Sequence[str], *, standardize: bool) -> None:
        super().__init__(modalities)
        self.standardize = standardize

    # --- what a kind of imputer says

    @abstractmethod
    def _more_state(self) -> list[str]:
        """Return the names of the buffers beside centres and scales."""

    @abstractmethod
    def _learn(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        """Return these buffers, learned from training rows x (n, D) and their mask a (n, M)."""

    @abstractmethod
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        """Return fills (n, D) for rows x (n, D) of mask a (n, M); read where a is False alone. 0 is the mean."""

    # --- fit and fill

    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Learn from the given rows alone.

        Arguments:
            features: modality name -> (N, ...), floating point, exactly the names of `modalities`; what lies in
                masked cells is never read.
            mask: bool (N, M) or name -> (N,): what is observed.
            rows: int64 (n,), the training rows; all N where None.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit, a modality is observed in none of the rows, or an
                observed row has NaN.
        """
        function = f"{type(self).__name__}.fit"
        chosen = self._observed(function, features, mask, rows)
        for name, some in zip(self.modalities, chosen, strict=True):
            if not features[name].is_floating_point():
                raise TypeError(
                    f"{function}: modality {name!r} must be floating point, got {features[name].dtype}."
                )
            if len(some) == 0:
                raise ValueError(
                    f"{function}: modality {name!r} is observed in none of the given rows, so nothing can be learned "
                    "of it. Give rows that have it, or leave the modality out."
                )
        state: dict[str, Tensor] = {}
        for index, (name, some) in enumerate(zip(self.modalities, chosen, strict=True)):
            x = features[name]
            values = x[some.to(x.device)].to(torch.float64)
            if not values.isfinite().all():
                raise ValueError(
                    f"{function}: modality {name!r} has NaN or an infinity in a row that the mask calls observed. "
                    "Make the mask with `mask_from_features`."
                )
            scale = (
                values.std(dim=0, correction=0) if self.standardize else torch.ones_like(values[0])
            )
            state[f"centre_{index}"] = values.mean(dim=0)
            state[f"scale_{index}"] = torch.where(scale > 0, scale, 1.0)
        for key, value in state.items():
            setattr(self, key, value)
        table, columns = self._table(function, features, mask)
        used = torch.unique(torch.cat(chosen)).to(
            table.device
        )  # a row with nothing teaches nothing
        for key, value in self._learn(table[used], columns[used]).items():
            setattr(self, key, value)
        return self

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        function = type(self).__name__
        if getattr(self, self._state_names()[0]) is None:
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")
        x, columns = self._table(function, features, mask)
        fills = torch.zeros_like(x)
        lacking = (~columns.all(dim=1)).nonzero()[:, 0]
        if len(lacking):
            with torch.autocast(device_type=x.device.type, enabled=False):
                fills[lacking] = self._predict(x[lacking], columns[lacking])
        filled = {}
        for index, (name, part) in enumerate(
            zip(self.modalities, torch.split(fills, self._sizes(), dim=1), strict=True)
        ):
            centre, scale = getattr(self, f"centre_{index}"), getattr(self, f"scale_{index}")
            fill = part.reshape(-1, *centre.shape) * scale + centre
            given = features.get(name)
            if given is None:
                filled[name] = fill.to(torch.get_default_dtype())
            else:
                there = append_axes(columns[:, index].to(given.device), given)
                filled[name] = torch.where(there, given, fill.to(given.device, given.dtype))
        return filled, torch.ones_like(columns)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device; what was fitted stays in float64, whatever a model around it is cast to."""
        super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        return self

    # --- the table

    @override
    def _state_names(self) -> list[str]:
        places = range(len(self.modalities))
        return [
            f"{kind}_{index}" for kind in ("centre", "scale") for index in places
        ] + self._more_state()

    def _sizes(self) -> list[int]:
        """Return the D_m, which sum to D."""
        return [
            math.prod(getattr(self, f"centre_{index}").shape)
            for index in range(len(self.modalities))
        ]

    def _expanded(self, a: Tensor) -> Tensor:
        """Return a mask or other columns (n, M) as (n, D), each repeated for the entries of its modality."""
        return a.repeat_interleave(torch.tensor(self._sizes(), device=a.device), dim=1)

    def _table(
        self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[Tensor, Tensor]:
        """Return the rows as a table (N, D) and their mask (N, M), on the device of the fitted state."""
        num_rows = self._check(function, features, mask)
        device = self.get_buffer("centre_0").device
        columns = mask_columns(function, mask, self.modalities, num_rows).to(device)
        parts = []
        for index, name in enumerate(self.modalities):
            centre, scale, x = (
                getattr(self, f"centre_{index}"),
                getattr(self, f"scale_{index}"),
                features.get(name),
            )
            if x is None:
                if columns[:, index].any():
                    raise ValueError(
                        f"{function}: the mask calls {name!r} available, but `features` lacks it."
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
            parts.append(
                torch.where(append_axes(columns[:, index], wide), wide, 0.0).reshape(
                    num_rows, centre.numel()
                )
            )
        return torch.cat(parts, dim=1), columns

    @override
    def _what_is_wrong(self) -> str:
        kind, places = type(self).__name__, range(len(self.modalities))
        absent = [name for name in self._state_names() if getattr(self, name) is None]
        if absent:  # all: nothing was loaded; some: reported as missing keys
            return ""
        for index in places:
            centre, scale = getattr(self, f"centre_{index}"), getattr(self, f"scale_{index}")
            if centre.shape != scale.shape:
                return f"{kind}: `centre_{index}` and `scale_{index}` of the state must have one shape."
        return self._what_is_wrong_with(
            self._sizes(), {name: getattr(self, name) for name in self._more_state()}
        )

    @abstractmethod
    def _what_is_wrong_with(self, sizes: list[int], state: dict[str, Any]) -> str:
        """Return what is wrong with the buffers beside centres and scales, or an empty string."""


def shapes_differ(
    kind: str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> str:
    """Say which buffer of a loaded state has not the expected shape, or return an empty string."""
    for name, shape in expected.items():
        got = tuple(state[name].shape)
        if got != shape:
            return f"{kind}: `{name}` of the state must have shape {shape}, got {got}."
    return ""
