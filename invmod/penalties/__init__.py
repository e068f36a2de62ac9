"""Invariance penalties, one file per what they are functions of: risks, or what IRM needs besides."""

from invmod.penalties.derivatives import (
    irm_derivatives,
    irm_derivatives_bpr,
    irm_penalty,
    irm_penalty_from_derivatives,
)
from invmod.penalties.risks import check_risks, vrex_penalty, vrex_penalty_debiased

__all__ = [
    "check_risks",
    "irm_derivatives",
    "irm_derivatives_bpr",
    "irm_penalty",
    "irm_penalty_from_derivatives",
    "vrex_penalty",
    "vrex_penalty_debiased",
]
