"""The robustness report: the metric of any model under missing modalities."""

from invmod.robustness.contributions import Contributions
from invmod.robustness.deprecated import add_deprecated_methods as _add_deprecated_methods
from invmod.robustness.evaluate import robustness_report
from invmod.robustness.frame import to_frame
from invmod.robustness.gate import RobustnessError
from invmod.robustness.page import write_page
from invmod.robustness.plots import plot_patterns, plot_rates
from invmod.robustness.report import RobustnessReport
from invmod.robustness.results import (
    ModelDifference,
    PatternResult,
    ProfileResult,
    RateResult,
    Violation,
)
from invmod.robustness.table import text_table

__all__ = [
    "Contributions",
    "ModelDifference",
    "PatternResult",
    "ProfileResult",
    "RateResult",
    "RobustnessError",
    "RobustnessReport",
    "Violation",
    "plot_patterns",
    "plot_rates",
    "robustness_report",
    "text_table",
    "to_frame",
    "write_page",
]

# report.py imports none of the display functions, so `str(report)` is defined here.
RobustnessReport.__str__ = text_table  # type: ignore[assignment, method-assign]
_add_deprecated_methods()
