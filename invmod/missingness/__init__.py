"""Which modality of which sample may be used: masks, and modalities hidden on purpose."""

from invmod.missingness.masks import (
    ROWS_AT_ONCE,
    MaskLike,
    append_axes,
    check_any_mask,
    check_mask,
    check_names,
    checked_rows,
    mask_columns,
    mask_from_features,
    pattern_name,
    rows_by_pattern,
)
from invmod.missingness.simulated import SimulatedMissing, simulate_missing

__all__ = [
    "ROWS_AT_ONCE",
    "MaskLike",
    "SimulatedMissing",
    "append_axes",
    "check_any_mask",
    "check_mask",
    "check_names",
    "checked_rows",
    "mask_columns",
    "mask_from_features",
    "pattern_name",
    "rows_by_pattern",
    "simulate_missing",
]
