"""Parts for PyTorch models that keep working when modalities of their input are missing."""

from invmod.alignment import pairwise_alignment_loss
from invmod.encoders import ModalityEncoders
from invmod.environments import (
    CyclicMixupEnvs,
    DirichletEnvs,
    Dominance,
    FixedEnvs,
    GivenEnvs,
    KOfAvailableEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    RandomSubsetEnvs,
    UniformEnvs,
    UnionEnvs,
    dominance,
)
from invmod.fusion import fuse
from invmod.imputation import MeanImputer, ZeroImputer
from invmod.missingness import (
    Batch,
    SimulatedMissing,
    collate,
    hide_features,
    mask_from_features,
    pattern_name,
    rows_by_pattern,
    simulate_k_available,
    simulate_mar,
    simulate_mcar,
    simulate_missing,
    simulate_mnar,
)
from invmod.objectives import invariant_objective, risk_coefficients
from invmod.penalties import irm_penalty, vrex_penalty
from invmod.robustness import ModelDifference, PatternResult, RateResult, RobustnessReport, robustness_report

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "CyclicMixupEnvs",
    "DirichletEnvs",
    "Dominance",
    "FixedEnvs",
    "GivenEnvs",
    "KOfAvailableEnvs",
    "LeaveOneOutEnvs",
    "MeanImputer",
    "ModalityEncoders",
    "ModelDifference",
    "OneHotEnvs",
    "PatternResult",
    "RandomSubsetEnvs",
    "RateResult",
    "RobustnessReport",
    "SimulatedMissing",
    "UniformEnvs",
    "UnionEnvs",
    "ZeroImputer",
    "collate",
    "dominance",
    "fuse",
    "hide_features",
    "invariant_objective",
    "irm_penalty",
    "mask_from_features",
    "pairwise_alignment_loss",
    "pattern_name",
    "risk_coefficients",
    "robustness_report",
    "rows_by_pattern",
    "simulate_k_available",
    "simulate_mar",
    "simulate_mcar",
    "simulate_missing",
    "simulate_mnar",
    "vrex_penalty",
]
