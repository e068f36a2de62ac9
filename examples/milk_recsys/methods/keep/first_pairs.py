"""Vectors of new items that have a few pairs already, from content and pairs together.

    v_c = f_c (kappa h_c E + m w_c) / (kappa + m)

where h_c E is the vector from the content of item c, f_c the factor of its predicted popularity, m
the number of its first pairs, w_c the vector from these pairs, and kappa the number of pairs that
the content is worth. The first pairs are taken for a random sample of the D_c pairs that the item
will have, as predicted from its content (at least m). The column of the item is then estimated by

    x_uc = n_u^-b D_c^-b (D_c / m)   for the users u of the first pairs,

and w_c is the vector of an item with this column (`user_map.py`). Its variance falls as 1 / m,
which gives the weights of the mean. With many pairs, `update_model` makes the item a warm one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from milk_recsys.methods.keep.user_map import UserMap

__all__ = ["CONTENT_PAIRS", "vectors_with_pairs"]

# Number of pairs that the content of an item is worth (kappa), the best of 5, 10, 20, 40 and 80 on
# the validation items of lfm2k (`python -m benchmarks.first_pairs`).
CONTENT_PAIRS = 20.0


@torch.no_grad()
def vectors_with_pairs(
    user_map: UserMap,
    features: Mapping[str, Tensor],
    mask: Tensor,
    pairs: Tensor,
    content_pairs: float = CONTENT_PAIRS,
) -> tuple[Tensor, Tensor]:
    """Return the vectors (N, r) of new items of which some have pairs, and the shares of content.

    Arguments:
        user_map: of the fitted model.
        features, mask: as in `KeepModel.embed_items`.
        pairs: int64 (P, 2), distinct pairs of a user of the model and an item, from 0 to N - 1.
            Those of users without training pairs count nothing.
        content_pairs: kappa.

    Returns:
        (N, r); and kappa / (kappa + m) (N,), by which the vector from the content is multiplied.
    """
    model = user_map.model
    vectors, logs = model.embed_with_popularity(features, mask)
    numbers = user_map.offsets.diff()
    users, items = pairs[numbers[pairs[:, 0]] > 0].unbind(1)
    count = torch.bincount(items, minlength=len(mask)).to(vectors)
    mean_log = model.counts.clamp(min=1).log().mean()
    total = torch.maximum((mean_log + logs[:, 0]).exp(), count)
    scale = total ** (1 - user_map.power) / count.clamp(min=1)
    values = numbers[users].to(vectors) ** -user_map.power * scale[items]
    columns = torch.sparse_coo_tensor(
        torch.stack([users, items]), values, (len(numbers), len(mask)), check_invariants=False
    ).coalesce()
    shares = content_pairs / (content_pairs + count)
    mixed = torch.lerp(user_map.item_vectors(columns), vectors, shares[:, None])
    return mixed * (model.exponent * logs).exp(), shares
