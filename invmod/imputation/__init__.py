"""Imputation: fill missing features. Fit an imputer on training rows, then call it on any rows.

An imputer returns ``(features, usable)``. The mask `usable` marks the cells that may be encoded and
fused; after imputation these are all cells. Keep the mask of the observed cells for alignment,
statistics and reports.

All imputers treat broken and absent input in the same way. A modality that is absent or None is
missing in all rows. NaN or an infinity in a cell that the mask calls observed is an error in `fit`;
in a call it stays visible, in the cell itself and in all fills of its row that depend on it.
Features of integers are filled by `ZeroImputer` only, because other fills would be rounded.

An unfitted imputer has no key in a ``state_dict``. Loading a state without any of its keys leaves
it unfitted. A state with only some of the keys is incomplete, and a strict load reports the missing
ones. A state holds the names of its modalities, and a state of other modalities is an error, which
leaves the imputer as it was. On loading, a fitted imputer keeps its device and dtype, and an
unfitted one takes those of the loaded tensors.
"""

from invmod.imputation.constant import ZeroImputer
from invmod.imputation.factors import PPCAImputer
from invmod.imputation.maps import LinearMapImputer
from invmod.imputation.mean import MeanImputer
from invmod.imputation.neighbours import KNNImputer
from invmod.imputation.ridge import RidgeImputer
from invmod.imputation.tokens import LearnedTokens

__all__ = [
    "KNNImputer",
    "LearnedTokens",
    "LinearMapImputer",
    "MeanImputer",
    "PPCAImputer",
    "RidgeImputer",
    "ZeroImputer",
]
