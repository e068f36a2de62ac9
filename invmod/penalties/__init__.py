"""Invariance penalties, grouped by their arguments: risks, derivatives, gradients or features."""

import typing as _typing

from invmod._deprecation import INTERNAL as _INTERNAL
from invmod._deprecation import deprecated_names as _deprecated_names
from invmod.penalties.balance import modality_gradient_norms, modality_learning_index
from invmod.penalties.derivatives import (
    irm_derivatives,
    irm_derivatives_bpr,
    irm_penalty,
    irm_penalty_from_derivatives,
)
from invmod.penalties.features import (
    coral_penalty,
    information_bottleneck_penalty,
    mmd_penalty,
    spectral_decoupling_penalty,
)
from invmod.penalties.gradients import (
    fishr_penalty,
    fishr_penalty_linear,
    iga_penalty,
    per_sample_gradients,
)
from invmod.penalties.risks import vrex_penalty, vrex_penalty_debiased

__all__ = [
    "coral_penalty",
    "fishr_penalty",
    "fishr_penalty_linear",
    "iga_penalty",
    "information_bottleneck_penalty",
    "irm_derivatives",
    "irm_derivatives_bpr",
    "irm_penalty",
    "irm_penalty_from_derivatives",
    "mmd_penalty",
    "modality_gradient_norms",
    "modality_learning_index",
    "per_sample_gradients",
    "spectral_decoupling_penalty",
    "vrex_penalty",
    "vrex_penalty_debiased",
]

# Hidden from type checkers, which accept any name of a module that has a `__getattr__`.
if not _typing.TYPE_CHECKING:
    __getattr__ = _deprecated_names(
        __name__, {"check_risks": ("invmod._checks:check_risks", _INTERNAL)}, ends_in="0.3"
    )
