"""The training data of a method as tensors of a file, from which its run is opened again."""

from __future__ import annotations

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.options import Options
from milk_recsys.methods.warm import WarmData

__all__ = ["warm_data", "warm_state"]

FEATURES = "features."  # Prefix of the names of features.


def warm_state(data: WarmData) -> dict[str, Tensor]:
    """Return the training pairs and the content of the warm items, for `warm_data`."""
    return {
        "offsets": data.rows.offsets,
        "items": data.rows.items,
        "mask": data.mask,
        **{FEATURES + name: x for name, x in data.features.items()},
    }


def warm_data(state: dict[str, Tensor], modalities: tuple[str, ...], options: Options) -> WarmData:
    """Return the training data that `warm_state` wrote.

    Arguments:
        state: the tensors, in any order.
        modalities: names, in the order of the columns of the mask.
        options: options of the run.

    Raises:
        DataError: the tensors do not fit together.
    """
    try:
        offsets, mask = state["offsets"], state["mask"]
        users = torch.arange(len(offsets) - 1, device=mask.device)
        pairs = torch.stack([users.repeat_interleave(offsets.diff()), state["items"]], dim=1)
        numbers = torch.arange(len(mask), device=mask.device)
        rows = build_user_rows(pairs, len(users), numbers)
        features = {name: state[FEATURES + name] for name in modalities}
        if any(len(x) != len(mask) for x in features.values()) or mask.shape[1] != len(modalities):
            raise ValueError(f"{mask.shape[0]} items with {mask.shape[1]} modalities in `mask`")
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"the stored training data are damaged ({error}).") from None
    dtype = torch.float64 if options.run.dtype == "float64" else torch.float32
    return WarmData(modalities, len(users), features, mask, rows, options.preparation, dtype)
