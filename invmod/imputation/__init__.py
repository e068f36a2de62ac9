"""Imputation: fill missing features. Fit an imputer on training rows, then call it on any rows.

An imputer returns ``(features, usable)``. The mask `usable` marks the cells that may be encoded and
fused; after imputation these are all cells. Keep the mask of the observed cells for alignment,
statistics and reports.

An unfitted imputer has no key in a ``state_dict``. Loading a state without any of its keys leaves
it unfitted. A state with only some of the keys is incomplete, and a strict load reports the missing
ones. On loading, a fitted imputer keeps its device and dtype, and an unfitted one takes those of
the loaded tensors.
"""

from invmod.imputation.constant import MeanImputer, ZeroImputer
from invmod.imputation.factors import PPCAImputer
from invmod.imputation.neighbours import KNNImputer
from invmod.imputation.ridge import RidgeImputer
from invmod.imputation.tokens import LearnedTokens

__all__ = [
    "KNNImputer",
    "LearnedTokens",
    "MeanImputer",
    "PPCAImputer",
    "RidgeImputer",
    "ZeroImputer",
]
