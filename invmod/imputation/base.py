"""Base of all imputers: checks of input, and a state that an unfitted imputer can load."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import (
    check_feature,
    check_known,
    check_names,
    checked_rows,
    has_known_values,
)
from invmod._files import replacing
from invmod.imputation.names import decode_text, encode_text
from invmod.missingness.masks import MaskLike, mask_columns

NAMES = "modality_names"  # the buffer with the names, so that they travel with a state


class Imputer(nn.Module, ABC):
    """A module whose fitted state consists of buffers.

    The buffers are None until `fit` or a load, because their shapes depend on the data. They are
    floating point, because tools that average weights fail on bool buffers; only the names are
    integers.
    """

    # Whether fills are exact in integers and bools, so that such features can be filled.
    _fills_integers: ClassVar[bool] = False

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = check_names(type(self).__name__, modalities)
        for name in (*self._state_names(), NAMES):
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
            features: modality name -> (N, ...). A modality that is absent or None is missing in all
                rows, so all of them are filled.
            mask: bool (N, M) or name -> (N,), True for the available cells.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M). Available
            cells are returned unchanged. NaN or an infinity in an available cell stays visible:
            in the cell itself, and in all fills of its row that depend on it.

        Raises:
            RuntimeError: the imputer is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit, or the mask marks a modality as
                available that is absent or None.
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
        if not state:  # an unfitted imputer
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

    def _set_state(self, state: Mapping[str, Tensor | None]) -> None:
        """Replace all buffers; the caller has computed them without an error."""
        for name, value in state.items():
            setattr(self, name, value)
        device = next((value.device for value in state.values() if value is not None), None)
        setattr(self, NAMES, encode_text(self.modalities, device))
        self._state_changed()

    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        """Update attributes derived from the buffers; `loaded` are the names of loaded ones."""

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
            column = next(iter(mask.values()), None) if isinstance(mask, Mapping) else mask
            # A mask of another type is reported later, by `mask_columns`.
            if isinstance(column, Tensor) and column.ndim:
                rows["mask"] = column.shape[0]
        # Without any tensor N is 0 here, and `mask_columns` reports the bad mask.
        num_rows = next(iter(rows.values()), 0)
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

    def _check_row(self, function: str, name: str, x: Tensor, shape: torch.Size) -> None:
        """Raise unless a feature has rows of the fitted shape and a dtype that can hold fills."""
        if x.shape[1:] != shape:
            raise ValueError(
                f"{function}: the feature of {name!r} must have shape (N, "
                f"{', '.join(map(str, shape))}) as in `fit`, got {tuple(x.shape)}."
            )
        if not (self._fills_integers or x.is_floating_point()):
            raise TypeError(
                f"{function}: the feature of {name!r} must be floating point, as in `fit`, got "
                f"{x.dtype}, in which fills would be rounded. Convert it, for example with "
                "`x.float()`."
            )

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

        This makes it possible to load a state into an unfitted imputer. If the state does not fit,
        the imputer is left as it was.
        """
        names, key = self._state_names(), f"{prefix}{NAMES}"
        if error := self._names_error(state_dict.get(key)):
            error_msgs.append(error)
            return
        state = self._current_form(state_dict, prefix)
        loaded = [name for name in names if isinstance(state.get(f"{prefix}{name}"), Tensor)]
        before = {name: getattr(self, name) for name in (*names, NAMES)}
        num_errors = len(error_msgs)
        for name in loaded:
            saved, existing = state[f"{prefix}{name}"], before[name]
            # `new_empty` keeps the dtype and device of a fitted imputer.
            empty = torch.empty_like(saved) if existing is None else existing.new_empty(saved.shape)
            setattr(self, name, empty)
        # The base class does not report missing keys of buffers that are None.
        absent = [f"{prefix}{n}" for n in names if n not in loaded and before[n] is None]
        if strict and loaded:
            missing_keys.extend(absent)
        # A state of an older version has no names, and an average of states has floats.
        if loaded:
            setattr(self, NAMES, encode_text(self.modalities, getattr(self, loaded[0]).device))
        if loaded or key in state:
            codes = state.get(key)
            state[key] = encode_text(self.modalities, None if codes is None else codes.device)
        super()._load_from_state_dict(
            state, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)
        incomplete = strict and any(f"{prefix}{name}" in missing_keys for name in names)
        # The base class checks each buffer alone; this checks that the buffers fit together.
        if len(error_msgs) == num_errors and (state_error := self._state_error()):
            error_msgs.append(state_error)
        if incomplete or len(error_msgs) > num_errors:
            for name, value in before.items():
                setattr(self, name, value)
        else:
            self._state_changed(loaded)

    def _names_error(self, codes: Tensor | None) -> str:
        """Return a message if a state belongs to other modalities, or an empty string."""
        # A state on the meta device has shapes only.
        if codes is None or codes.is_meta or decode_text(codes) == list(self.modalities):
            return ""
        return (
            f"{type(self).__name__}: the loaded state is of the modalities {decode_text(codes)}, "
            f"this imputer has {list(self.modalities)}. Build it with the names in the order of "
            f"the state. If the modalities were only renamed, remove {NAMES!r} from the state."
        )

    def _current_form(self, state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Return a copy of a state, in which bool buffers of older versions are float64."""
        own = {f"{prefix}{name}" for name in self._state_names()}
        return {
            key: value.to(torch.float64)
            if key in own and isinstance(value, Tensor) and value.dtype == torch.bool
            else value
            for key, value in state_dict.items()
        }

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
            f"{kind}: `save` and `load` need safetensors. Install it with "
            '`pip install "invmod[io]"`.'
        ) from error
    return safetensors
