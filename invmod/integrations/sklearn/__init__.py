"""Imputers and regressions of modalities as scikit-learn estimators, and the report over them.

A modality is a group of columns of a table (N, C): an array, or a data frame of pandas or polars.
Importing this module imports scikit-learn.
"""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ImportError(
        "invmod.integrations.sklearn: needs scikit-learn: pip install 'invmod[sklearn]'."
    )

from invmod.integrations.sklearn.imputers import (
    ModalityKNNImputer,
    ModalityMeanImputer,
    ModalityPPCAImputer,
    ModalityRidgeImputer,
    ModalityZeroImputer,
)
from invmod.integrations.sklearn.regression import (
    PatternKernelClassifier,
    PatternKernelRegressor,
)
from invmod.integrations.sklearn.report import estimator_report

__all__ = [
    "ModalityKNNImputer",
    "ModalityMeanImputer",
    "ModalityPPCAImputer",
    "ModalityRidgeImputer",
    "ModalityZeroImputer",
    "PatternKernelClassifier",
    "PatternKernelRegressor",
    "estimator_report",
]
