"""The state of a fitted part: buffers that an unfitted one can load, and the modalities' names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_names
from invmod._text import NAMES, decode_text, encode_text, restore_text


class FittedState(nn.Module, ABC):
    """A module whose fitted state consists of buffers.

    The buffers are None until `fit` or a load, because their shapes depend on the data. They are
    floating point, because tools that average weights fail on bool buffers; only the names are
    integers.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = check_names(type(self).__name__, modalities)
        for name in (*self._state_names(), NAMES):
            self.register_buffer(name, None)

    @abstractmethod
    def _state_names(self) -> list[str]:
        """Return the names of the buffers of a fitted part."""

    def _set_state(self, state: Mapping[str, Tensor | None]) -> None:
        """Replace all buffers; the caller has computed them without an error."""
        for name, value in state.items():
            setattr(self, name, value)
        device = next((value.device for value in state.values() if value is not None), None)
        setattr(self, NAMES, encode_text(self.modalities, device))
        self._state_changed()

    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        """Update attributes derived from the buffers; `loaded` are the names of loaded ones."""

    def _text_buffers(self) -> dict[str, Sequence[str | None]]:
        """Return the text that each buffer of encoded text holds."""
        return {NAMES: self.modalities}

    @override
    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, text in self._text_buffers().items():
            restore_text(getattr(self, name), text)
        super()._save_to_state_dict(destination, prefix, keep_vars)

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

        This makes it possible to load a state into an unfitted part. If the state does not fit,
        the part is left as it was.
        """
        names, key = self._state_names(), f"{prefix}{NAMES}"
        if error := self._names_error(state_dict.get(key), key):
            error_msgs.append(error)
            return
        state = self._current_form(state_dict, prefix)
        loaded = [name for name in names if isinstance(state.get(f"{prefix}{name}"), Tensor)]
        before = {name: getattr(self, name) for name in (*names, NAMES)}
        num_errors = len(error_msgs)
        for name in loaded:
            saved, existing = state[f"{prefix}{name}"], before[name]
            # `new_empty` keeps the dtype and device of a fitted part.
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

    def _names_error(self, codes: Tensor | None, key: str) -> str:
        """Return a message if a state belongs to other modalities, or an empty string."""
        # A state on the meta device has shapes only.
        if codes is None or codes.is_meta or decode_text(codes) == list(self.modalities):
            return ""
        return (
            f"{type(self).__name__}: the loaded state is of the modalities {decode_text(codes)}, "
            f"this one has {list(self.modalities)}. Build it with the names in the order of "
            f"the state. If the modalities were only renamed, remove {key!r} from the state."
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
