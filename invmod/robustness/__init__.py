"""The robustness report: how good a model is, any model, when modalities are missing."""

from invmod.robustness.evaluate import robustness_report
from invmod.robustness.report import ModelDifference, PatternResult, RateResult, RobustnessReport

__all__ = ["ModelDifference", "PatternResult", "RateResult", "RobustnessReport", "robustness_report"]
