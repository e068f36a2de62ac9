"""Which modality of which sample may be used: masks, and modalities hidden on purpose."""

from invmod.missingness.batches import Batch, collate
from invmod.missingness.chance import simulate_mar, simulate_mcar, simulate_mnar
from invmod.missingness.features import hide_features, mask_from_features
from invmod.missingness.masks import (
    ROWS_AT_ONCE,
    MaskLike,
    append_axes,
    check_any_mask,
    check_mask,
    check_names,
    checked_rows,
    mask_columns,
    pattern_name,
    rows_by_pattern,
)
from invmod.missingness.simulated import SimulatedMissing, check_count, simulate_k_available, simulate_missing

__all__ = [
    "ROWS_AT_ONCE",
    "Batch",
    "MaskLike",
    "SimulatedMissing",
    "append_axes",
    "check_any_mask",
    "check_count",
    "check_mask",
    "check_names",
    "checked_rows",
    "collate",
    "hide_features",
    "mask_columns",
    "mask_from_features",
    "pattern_name",
    "rows_by_pattern",
    "simulate_k_available",
    "simulate_mar",
    "simulate_mcar",
    "simulate_missing",
    "simulate_mnar",
]
