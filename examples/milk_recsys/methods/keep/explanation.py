"""The score of a new item as a sum over modalities and over the items of the user.

The vector of a new item is v_c = f_c h_c E, where f_c is the factor of its predicted popularity.
The weights h_c are a sum over the modalities of the item
(`PatternKernelRidge.smoother_by_modality`), and the vector of a user is a sum over the user's items
(`user_map.py`):

    s_uc = sum_m sum_j x_uj g(f_c h_cm E)_j

The parts are exact and may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import UserMap

__all__ = ["modality_weights"]


@torch.no_grad()
def modality_weights(user_map: UserMap, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return g(f_c h_cm E) (M, N, n) of new items; the sum over j of x_uj times it is the score.

    Arguments:
        user_map: of the fitted model.
        features: modality -> (N, d_m).
        mask: bool (N, M), in the order of the modalities of the model.
    """
    model: KeepModel = user_map.model
    names = model.regression.modalities
    columns = [model.modalities.index(name) for name in names]
    weights = model.counts.new_zeros(len(model.modalities), len(mask), len(model.counts))
    for pattern, items in model.patterns(mask):
        rows = {name: features[name][items] for name in names if name in features}
        # The regression has no intercept, so that the last part is 0.
        own = mask[items][:, columns]
        parts = model.regression.smoother_by_modality(rows, own, pattern=pattern)[:-1]
        logs = parts.sum(dim=0) @ model.centred_logs()
        factor = (model.exponent * logs).exp()
        for part, column in zip(parts, columns, strict=True):
            weights[column, items] = user_map.item_weights(model.summed(part) * factor)
    return weights
