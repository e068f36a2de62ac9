"""Base of what is fitted on rows with missing modalities: checks of its arguments, and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import (
    check_feature,
    check_known,
    checked_rows,
    has_known_values,
)
from invmod._files import replacing
from invmod._state import FittedState
from invmod.missingness.masks import MaskLike, first_column, mask_columns


class FittedModule(FittedState):
    """A module that is fitted on rows: a state, its files, and checks of features and masks."""

    # Whether the state keeps its dtype when the model that contains the module is cast.
    _keeps_dtype: ClassVar[bool] = False

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Cast the state and move it to another device, or only move it."""
        if not self._keeps_dtype:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]
        # Apply `fn` to an empty tensor to learn the device that it moves to, and ignore its dtype.
        super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        self._state_changed()
        return self

    def _check_fitted(self, function: str) -> None:
        """Raise unless the module is fitted."""
        if getattr(self, self._state_names()[0]) is None:
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")

    def save(self, path: str | Path) -> None:
        """Write the fitted state as a safetensors file.

        The file gets a temporary name first and is renamed when it is complete.

        Raises:
            RuntimeError: it is not fitted.
            ImportError: safetensors is not installed; the message explains how to install it.
        """
        safetensors = _safetensors(type(self).__name__)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        if not state:  # not fitted
            raise RuntimeError(
                f"{type(self).__name__}.save: not fitted yet. Call `fit` with training rows first."
            )
        with replacing(path) as temporary:
            safetensors.torch.save_file(
                state, temporary, metadata={"modalities": json.dumps(self.modalities)}
            )

    def load(self, path: str | Path) -> Self:
        """Read a state that `save` wrote. It must be built with the same arguments.

        Returns:
            itself.

        Raises:
            FileNotFoundError: the file does not exist.
            ImportError: safetensors is not installed.
            ValueError: the file does not contain such a state, or the state belongs
                to other modalities. The message contains the path, and nothing has changed.
        """
        kind = type(self).__name__
        safetensors = _safetensors(kind)
        if not Path(path).exists():
            raise FileNotFoundError(f"{kind}.load: the file {path} does not exist.")
        try:
            state = safetensors.torch.load_file(path)
            with safetensors.safe_open(path, framework="pt") as file:
                names = json.loads((file.metadata() or {}).get("modalities", "null"))
        except Exception as error:
            # safetensors raises several types of its own for files that it cannot read.
            raise ValueError(
                f"{kind}.load: {path} is not a file that `save` wrote: {error}."
            ) from error
        if names != list(self.modalities):
            raise ValueError(
                f"{kind}.load: {path} has a state for the modalities {names}, "
                f"not {list(self.modalities)}."
            )
        before = [
            (module, {**module.__dict__, "_buffers": dict(module._buffers)})
            for module in self.modules()
        ]
        parameters = [(x, x.detach().clone()) for x in self.parameters()]
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            # A tensor too many, for example, is noticed after the others have been loaded.
            for module, attributes in before:
                module.__dict__.clear()
                module.__dict__.update(attributes)
            with torch.no_grad():
                for parameter, value in parameters:
                    parameter.copy_(value)
            raise ValueError(f"{kind}.load: {path} does not fit: {error}.") from error
        return self

    def _observed_rows(
        self,
        function: str,
        features: Mapping[str, Tensor | None],
        mask: MaskLike,
        rows: Tensor | None,
        *,
        all_needed: bool = True,
    ) -> list[Tensor]:
        """Check all arguments of `fit`; for each modality return those of `rows` that have it."""
        absent = [name for name in self.modalities if features.get(name) is None]
        if absent and all_needed:
            raise KeyError(f"{function}: `features` lacks the modalities {absent}.")
        # If all are needed, the mask does not state the number of rows, and is checked against it.
        num_rows = self._check_features(function, features, None if all_needed else mask)
        columns = self._mask_columns(function, features, mask, num_rows)
        training_rows = checked_rows(function, rows, num_rows, columns.device)
        # Only row numbers are returned: gathering the rows here would copy the tables.
        return [
            training_rows[columns[training_rows, index]] for index in range(len(self.modalities))
        ]

    def _check_features(
        self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike | None
    ) -> int:
        """Check names and numbers of rows; return N."""
        check_known(function, "features", features, self.modalities)
        present = {name: x for name, x in features.items() if x is not None}
        for name, x in present.items():
            check_feature(function, name, x)
        rows = {name: x.shape[0] for name, x in present.items()}
        if mask is not None:
            column = first_column(mask)
            # A mask of another type is reported later, by `mask_columns`.
            if isinstance(column, Tensor) and column.ndim:
                rows["mask"] = column.shape[0]
        # Without any tensor N is 0 here, and `mask_columns` reports the bad mask.
        num_rows = next(iter(rows.values())) if rows else 0
        # Sizes are compared and not put into a set, because symbolic sizes cannot be hashed.
        if any(count != num_rows for count in rows.values()):
            raise ValueError(
                f"{function}: modalities and mask must have equal numbers of rows, got {rows}."
            )
        return num_rows

    def _mask_columns(
        self,
        function: str,
        features: Mapping[str, Tensor | None],
        mask: MaskLike,
        num_rows: int,
    ) -> Tensor:
        """Return the mask (N, M), with False for the modalities that are absent or None."""
        columns = mask_columns(function, mask, self.modalities, num_rows)
        present = [features.get(name) is not None for name in self.modalities]
        if all(present):
            return columns
        for name, given, column in zip(self.modalities, present, columns.unbind(1), strict=True):
            if not given and has_known_values(column) and column.any():
                raise ValueError(
                    f"{function}: the mask marks {name!r} as available, but `features` lacks it."
                )
        # In traced code, where the values are unknown, the absent modality counts as missing.
        return columns & torch.tensor(present, device=columns.device)


def _safetensors(kind: str) -> Any:
    """Import safetensors, an optional dependency."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            f"{kind}: `save` and `load` need safetensors. Install it with "
            '`pip install "invmod[io]"`.'
        ) from error
    return safetensors
