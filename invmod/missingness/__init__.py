"""Availability masks of modalities, and simulated missingness."""

from invmod.missingness.batches import Batch, collate
from invmod.missingness.chance import simulate_mar, simulate_mcar, simulate_mnar
from invmod.missingness.features import hide_features, mask_from_features
from invmod.missingness.masks import pattern_name, rows_by_pattern
from invmod.missingness.simulated import SimulatedMissing, simulate_k_available, simulate_missing

__all__ = [
    "Batch",
    "SimulatedMissing",
    "collate",
    "hide_features",
    "mask_from_features",
    "pattern_name",
    "rows_by_pattern",
    "simulate_k_available",
    "simulate_mar",
    "simulate_mcar",
    "simulate_missing",
    "simulate_mnar",
]
