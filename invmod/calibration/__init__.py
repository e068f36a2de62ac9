"""Conformal prediction: intervals and sets that hold within each pattern of missing modalities."""

from invmod.calibration.calibrate import calibrate_by_pattern
from invmod.calibration.predictor import ConformalPredictor
from invmod.calibration.report import CalibrationReport, PatternCalibration

__all__ = [
    "CalibrationReport",
    "ConformalPredictor",
    "PatternCalibration",
    "calibrate_by_pattern",
]
