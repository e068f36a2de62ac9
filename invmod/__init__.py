"""Parts for PyTorch models that keep working when modalities of their input are missing.

The names used most often are here. All others are in subpackages, for example
`invmod.penalties.fishr_penalty`.
"""

import typing as _typing

from invmod._deprecation import deprecated_names as _deprecated_names
from invmod.alignment import infonce_alignment_loss, pairwise_alignment_loss
from invmod.calibration import calibrate_by_pattern
from invmod.encoders import ModalityEncoders
from invmod.environments import CyclicMixupEnvs, DirichletEnvs, RandomSubsetEnvs, UniformEnvs
from invmod.fusion import AttentionFusion, GatedFusion, fuse, masked_mean
from invmod.imputation import (
    KNNImputer,
    LearnedTokens,
    MeanImputer,
    PPCAImputer,
    RidgeImputer,
    ZeroImputer,
)
from invmod.missingness import (
    collate,
    hide_features,
    mask_from_features,
    simulate_mcar,
    simulate_missing,
)
from invmod.objectives import (
    GroupDRO,
    environment_risks,
    invariant_objective,
    risk_coefficients,
    worst_case_objective,
)
from invmod.penalties import irm_penalty, vrex_penalty
from invmod.regression import PatternKernelRidge
from invmod.robustness import RobustnessReport, robustness_report

__version__ = "0.2.0"

__all__ = [
    "AttentionFusion",
    "CyclicMixupEnvs",
    "DirichletEnvs",
    "GatedFusion",
    "GroupDRO",
    "KNNImputer",
    "LearnedTokens",
    "MeanImputer",
    "ModalityEncoders",
    "PPCAImputer",
    "PatternKernelRidge",
    "RandomSubsetEnvs",
    "RidgeImputer",
    "RobustnessReport",
    "UniformEnvs",
    "ZeroImputer",
    "calibrate_by_pattern",
    "collate",
    "environment_risks",
    "fuse",
    "hide_features",
    "infonce_alignment_loss",
    "invariant_objective",
    "irm_penalty",
    "mask_from_features",
    "masked_mean",
    "pairwise_alignment_loss",
    "risk_coefficients",
    "robustness_report",
    "simulate_mcar",
    "simulate_missing",
    "vrex_penalty",
    "worst_case_objective",
]

# Names of 0.1 that are now only in their subpackages. Type checkers accept any name of a module
# that has a `__getattr__`, so it is hidden from them.
if not _typing.TYPE_CHECKING:
    _MOVED = {
        "alignment": """
            coral_alignment_loss cosine_alignment_loss
        """,
        "environments": """
            Dominance Environments FixedEnvs GivenEnvs KOfAvailableEnvs LeaveOneOutEnvs
            OneHotEnvs UnionEnvs dominance infer_environments
        """,
        "fusion": """
            Gaussian product_of_experts
        """,
        "missingness": """
            Batch SimulatedMissing pattern_name rows_by_pattern simulate_k_available
            simulate_mar simulate_mnar
        """,
        "objectives": """
            all_reduce_statistics constant_schedule cvar_objective environment_statistics
            eqrm_objective exponential_schedule irm_penalty_from_statistics linear_schedule
            merge_statistics mmrex_objective risks_from_statistics statistics_coefficients
            statistics_surrogate step_schedule vrex_coefficients
            vrex_penalty_debiased_from_statistics
        """,
        "penalties": """
            coral_penalty fishr_penalty fishr_penalty_linear iga_penalty
            information_bottleneck_penalty irm_derivatives irm_derivatives_bpr
            irm_penalty_from_derivatives mmd_penalty per_sample_gradients
            spectral_decoupling_penalty vrex_penalty_debiased
        """,
        "robustness": """
            ModelDifference PatternResult RateResult
        """,
    }
    __getattr__ = _deprecated_names(
        __name__,
        {
            name: (f"invmod.{package}:{name}", f"use `invmod.{package}.{name}`")
            for package, names in _MOVED.items()
            for name in names.split()
        },
        ends_in="0.3",
    )
