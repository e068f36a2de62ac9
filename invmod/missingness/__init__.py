"""Availability masks of modalities, and simulated missingness."""

import typing as _typing

from invmod._deprecation import INTERNAL as _INTERNAL
from invmod._deprecation import deprecated_names as _deprecated_names
from invmod.missingness.batches import Batch, collate
from invmod.missingness.chance import simulate_mar, simulate_mcar, simulate_mnar
from invmod.missingness.features import hide_features, mask_from_features
from invmod.missingness.masks import pattern_name, rows_by_pattern
from invmod.missingness.mcar import mcar_test
from invmod.missingness.mcar_results import McarTest, ModalityTest
from invmod.missingness.picture import plot_missingness
from invmod.missingness.simulated import SimulatedMissing, simulate_k_available, simulate_missing
from invmod.missingness.summary import (
    MissingnessSummary,
    PairCount,
    PatternCount,
    missingness_summary,
)
from invmod.missingness.summary_text import summary_table

__all__ = [
    "Batch",
    "McarTest",
    "MissingnessSummary",
    "ModalityTest",
    "PairCount",
    "PatternCount",
    "SimulatedMissing",
    "collate",
    "hide_features",
    "mask_from_features",
    "mcar_test",
    "missingness_summary",
    "pattern_name",
    "plot_missingness",
    "rows_by_pattern",
    "simulate_k_available",
    "simulate_mar",
    "simulate_mcar",
    "simulate_missing",
    "simulate_mnar",
    "summary_table",
]

# summary.py does not import the module that shows it, so `str(summary)` is defined here.
MissingnessSummary.__str__ = summary_table  # type: ignore[assignment, method-assign]

# Hidden from type checkers, which accept any name of a module that has a `__getattr__`.
if not _typing.TYPE_CHECKING:
    __getattr__ = _deprecated_names(
        __name__,
        {
            "MaskLike": (
                "invmod.missingness.masks:MaskLike",
                "annotate with `torch.Tensor | Mapping[str, torch.Tensor]`",
            ),
            "ROWS_AT_ONCE": ("invmod.missingness.masks:ROWS_AT_ONCE", _INTERNAL),
            "append_axes": ("invmod.missingness.masks:append_axes", _INTERNAL),
            "check_any_mask": ("invmod.missingness.masks:check_any_mask", _INTERNAL),
            "check_count": ("invmod._checks:check_count", _INTERNAL),
            "check_mask": ("invmod.missingness.masks:check_mask", _INTERNAL),
            "check_names": ("invmod._checks:check_names", _INTERNAL),
            "checked_rows": ("invmod._checks:checked_rows", _INTERNAL),
            "mask_columns": ("invmod.missingness.masks:mask_columns", _INTERNAL),
        },
        ends_in="0.3",
    )
