"""Invariance penalties, one file per what they are functions of: risks, or what IRM needs besides."""

from invmod.penalties.derivatives import irm_penalty
from invmod.penalties.risks import check_risks, vrex_penalty

__all__ = ["check_risks", "irm_penalty", "vrex_penalty"]
