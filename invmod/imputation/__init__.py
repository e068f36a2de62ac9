"""Imputation: fill what is missing. Fit on training rows, then call on any rows.

An imputer returns ``(features, usable)``. `usable` says which cells may be encoded and fused, here all of them; the
mask of what was observed stays with the caller, for alignment, statistics and reports.

An unfitted imputer has no key in a ``state_dict``, and loading a state without any of its keys leaves it unfitted.
A state that has some of them only is incomplete: a strict load reports those that are missing. A fitted imputer
keeps its device and dtype on loading, an unfitted one takes those of what is loaded.
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
