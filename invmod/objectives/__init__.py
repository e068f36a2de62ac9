"""Objectives: risks (E,) and a penalty to one scalar, and the coefficients that make it exact in pieces."""

from invmod.objectives.coefficients import risk_coefficients
from invmod.objectives.risks import invariant_objective

__all__ = ["invariant_objective", "risk_coefficients"]
