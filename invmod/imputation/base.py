"""Base of all imputers: checks of input, and a state that an unfitted imputer can load."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_feature, check_known, check_names, checked_rows
from invmod._files import replacing
from invmod.missingness.masks import MaskLike, mask_columns


class Imputer(nn.Module, ABC):
    """A module whose fitted state consists of buffers.

    The buffers are None until `fit` or a load, because their shapes depend on the data.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = check_names(type(self).__name__, modalities)
        for name in self._state_names():
            self.register_buffer(name, None)

    @abstractmethod
    def _state_names(self) -> list[str]:
        """Return the names of the buffers of a fitted imputer."""

    @abstractmethod
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the unavailable rows.

        Arguments:
            features: modality name -> (N, ...). All rows of a modality that is absent or None are
                filled.
            mask: bool (N, M) or name -> (N,), True for the available cells.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M).

        Raises:
            RuntimeError: the imputer is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit.
        """

    def save(self, path: str | Path) -> None:
        """Write the fitted state as a safetensors file.

        The file gets a temporary name first and is renamed when it is complete.

        Raises:
            RuntimeError: the imputer is not fitted.
            ImportError: safetensors is not installed; the message explains how to install it.
        """
        safetensors = _safetensors(type(self).__name__)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        if not state:
            raise RuntimeError(
                f"{type(self).__name__}.save: not fitted yet. Call `fit` with training rows first."
            )
        with replacing(path) as temporary:
            safetensors.torch.save_file(
                state, temporary, metadata={"modalities": json.dumps(self.modalities)}
            )

    def load(self, path: str | Path) -> Self:
        """Read a state that `save` wrote. The imputer must be built with the same arguments.

        Returns:
            itself.

        Raises:
            FileNotFoundError: the file does not exist.
            ImportError: safetensors is not installed.
            ValueError: the file does not contain a state of such an imputer, or the state belongs
                to other modalities. The message contains the path.
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
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{kind}.load: {path} does not fit: {error}.") from error
        return self

    def _observed_rows(
        self, function: str, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None
    ) -> list[Tensor]:
        """Check all arguments of `fit`; for each modality return those of `rows` that have it."""
        absent = [name for name in self.modalities if features.get(name) is None]
        if absent:
            raise KeyError(f"{function}: `features` lacks the modalities {absent}.")
        num_rows = self._check_features(function, features, None)
        columns = mask_columns(function, mask, self.modalities, num_rows)
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
            column = next(iter(mask.values()), None) if isinstance(mask, Mapping) else mask
            # A mask of another type is reported later, by `mask_columns`.
            if isinstance(column, Tensor) and column.ndim:
                rows["mask"] = column.shape[0]
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"{function}: modalities and mask must have equal numbers of rows, got {rows}."
            )
        # Without any tensor N is 0 here, and `mask_columns` reports the bad mask.
        return next(iter(rows.values()), 0)

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
        """Give the buffers the shapes of the loaded tensors, then load as usual.

        This makes it possible to load a state into an unfitted imputer.
        """
        names = self._state_names()
        partial = strict and any(f"{prefix}{name}" in state_dict for name in names)
        for name in names:
            saved, existing = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if isinstance(saved, Tensor):
                # `new_empty` keeps the dtype and device of a fitted imputer.
                empty = (
                    torch.empty_like(saved) if existing is None else existing.new_empty(saved.shape)
                )
                setattr(self, name, empty)
            elif partial and existing is None:
                # The base class does not report missing keys of buffers that are None.
                missing_keys.append(f"{prefix}{name}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # The base class checks each buffer alone; this checks that the buffers fit together.
        if not error_msgs and (state_error := self._state_error()):
            error_msgs.append(state_error)

    def _state_error(self) -> str:
        """Return a message about an inconsistent loaded state, or an empty string."""
        return ""


def _safetensors(kind: str) -> Any:
    """Import safetensors, an optional dependency."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            f"{kind}: saving needs safetensors: pip install 'invmod[recsys]'."
        ) from error
    return safetensors
