"""A method of one's own: Rocchio's user profiles, added to the methods of `milk_recsys`.

    score(u, c) = sum over the items j of u of  n_j^-damping cos(x_j, x_c)

where c is a new item, x are the features of an item (scaled, imputed, modalities side by side) and
n_j is the number of users that item j has in the training pairs.

    python examples/rocchio.py --model rocchio --damping 0.5
"""

import dataclasses
import sys
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.config.method import Method, choice, option, register
from milk_recsys.methods.closed_form import user_profile_scorer
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.warm import Content, WarmData
from milk_recsys.train import main


@dataclasses.dataclass(frozen=True)
class RocchioOptions:
    """Options on the command line, with their help texts and ranges."""

    damping: float = option(0.0, "Exponent that reduces the weight of popular items.", high=1)


class Rocchio:
    """A model that is fitted in closed form: it is built once, and `scorer` may be called often."""

    def __init__(self, data: WarmData, options: RocchioOptions, seed: int) -> None:  # noqa: ARG002
        self.data, self.content = data, Content(data)
        num_users = torch.bincount(data.pairs[1], minlength=data.num_items).clamp(min=1)
        self.warm = F.normalize(self.content.warm) * num_users[:, None] ** -options.damping

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from users (u,) to their scores of the new items (u, C)."""
        new = F.normalize(self.content(features, mask))
        return user_profile_scorer(self.data, self.warm @ new.T)


ROCCHIO = Method(
    name="rocchio",
    title="Rocchio",
    options=RocchioOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model=f"{__name__}:Rocchio",
    search_seed=101,
    space={"damping": choice(0.0, 0.5, 1.0)},
)

if __name__ == "__main__":
    register(ROCCHIO)
    sys.exit(main())
