"""Parts for PyTorch models that keep working when modalities of their input are missing."""

from invmod.alignment import pairwise_alignment_loss
from invmod.encoders import ModalityEncoders
from invmod.environments import CyclicMixupEnvs
from invmod.fusion import fuse
from invmod.imputation import MeanImputer, ZeroImputer
from invmod.missingness import (
    SimulatedMissing,
    mask_from_features,
    pattern_name,
    rows_by_pattern,
    simulate_missing,
)
from invmod.objectives import invariant_objective, risk_coefficients
from invmod.penalties import irm_penalty, vrex_penalty

__version__ = "0.1.0"

__all__ = [
    "CyclicMixupEnvs",
    "MeanImputer",
    "ModalityEncoders",
    "SimulatedMissing",
    "ZeroImputer",
    "fuse",
    "invariant_objective",
    "irm_penalty",
    "mask_from_features",
    "pairwise_alignment_loss",
    "pattern_name",
    "risk_coefficients",
    "rows_by_pattern",
    "simulate_missing",
    "vrex_penalty",
]
