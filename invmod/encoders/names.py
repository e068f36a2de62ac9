"""Comparison of the modality names in a state with those of the module that loads it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from invmod._text import NAMES, decode_text


def check_loaded_names(
    state_dict: Mapping[str, Any], prefix: str, modalities: tuple[str, ...]
) -> bool:
    """Compare the names in a state with those of the module that loads it.

    Returns:
        whether the state has names; a state that was saved by an older version has none, which is
        a warning if it has weights of encoders.

    Raises:
        RuntimeError: the names or their order differ.
    """
    codes = state_dict.get(f"{prefix}{NAMES}")
    if codes is None:
        if any(key.startswith(f"{prefix}encoders.") for key in state_dict):
            warnings.warn(
                f"ModalityEncoders: the loaded state has no names of modalities (key "
                f"'{prefix}{NAMES}'), because an older version saved it. Check that its encoders "
                f"are, in this order, those of {modalities}, and save it again.",
                UserWarning,
                stacklevel=2,
            )
        return False
    # A state on the meta device has shapes only.
    decoded = list(modalities) if codes.is_meta else decode_text(codes)
    saved = None if decoded is None else tuple(decoded)
    if saved != modalities:
        raise RuntimeError(
            f"ModalityEncoders: the loaded state has the modalities {saved}, this module has "
            f"{modalities}. Build the module with the names in the order of the state. If the "
            f"modalities were only renamed, remove '{prefix}{NAMES}' from the state."
        )
    return True
