"""Objectives: scalar functions of the risks (E,) and a penalty.

Additive statistics and coefficients give their exact gradients when a batch is split into
micro-batches or over data-parallel ranks.
"""

from invmod.objectives.coefficients import (
    risk_coefficients,
    statistics_coefficients,
    statistics_surrogate,
    vrex_coefficients,
)
from invmod.objectives.estimates import (
    irm_penalty_from_statistics,
    risks_from_statistics,
    vrex_penalty_debiased_from_statistics,
)
from invmod.objectives.group_dro import GroupDRO
from invmod.objectives.masked_risks import environment_risks
from invmod.objectives.more_vs_fewer import counter_intuitive_rate, more_vs_fewer_loss
from invmod.objectives.risks import invariant_objective, mmrex_objective, worst_case_objective
from invmod.objectives.schedules import (
    constant_schedule,
    exponential_schedule,
    linear_schedule,
    step_schedule,
)
from invmod.objectives.statistics import (
    all_reduce_statistics,
    environment_statistics,
    merge_statistics,
)
from invmod.objectives.tails import cvar_objective, eqrm_objective

__all__ = [
    "GroupDRO",
    "all_reduce_statistics",
    "constant_schedule",
    "counter_intuitive_rate",
    "cvar_objective",
    "environment_risks",
    "environment_statistics",
    "eqrm_objective",
    "exponential_schedule",
    "invariant_objective",
    "irm_penalty_from_statistics",
    "linear_schedule",
    "merge_statistics",
    "mmrex_objective",
    "more_vs_fewer_loss",
    "risk_coefficients",
    "risks_from_statistics",
    "statistics_coefficients",
    "statistics_surrogate",
    "step_schedule",
    "vrex_coefficients",
    "vrex_penalty_debiased_from_statistics",
    "worst_case_objective",
]
