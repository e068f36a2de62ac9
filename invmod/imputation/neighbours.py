"""Fill from the nearest rows in the modalities that both have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.imputation.joint import JointImputer, shapes_differ

PAIRS_AT_ONCE = 1 << 24  # distances held at a time: 128 MiB


class KNNImputer(JointImputer):
    r"""Fill a missing modality with the mean of the k nearest training rows that have it.

    .. math::
        d^2(n, r) = \frac{D}{\sum_m a_{nm} a_{rm} D_m} \sum_m a_{nm} a_{rm} \lVert x_{nm} - x_{rm} \rVert^2

    over the modalities that both have, scaled up to all D entries, so that rows which share little do not look near.
    Each missing modality has its own neighbours, among the training rows that have it. Of equal distances the lower row
    counts first; fewer than k such rows are all taken; without a row that shares a modality, as for a row that
    has nothing, the fill is the mean of the training rows.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        num_neighbours: k, at least 1.
        standardize: divide each entry by its standard deviation over the observed training rows before distances are
            taken. Fills come back in the units of the input either way; do not scale before and here as well.

    Raises:
        TypeError, ValueError: `num_neighbours` is not an int of at least 1.

    References:
        Troyanskaya et al., Missing Value Estimation Methods for DNA Microarrays, Bioinformatics 17(6), 2001.

    Example:
        >>> a, b = torch.tensor([[0.0], [1.0], [9.0], [0.9]]), torch.tensor([[5.0], [6.0], [7.0], [0.0]])
        >>> mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
        >>> imputer = KNNImputer(["a", "b"], num_neighbours=2).fit({"a": a, "b": b}, mask)
        >>> imputer({"a": a, "b": b}, mask)[0]["b"][:, 0]
        tensor([5.0000, 6.0000, 7.0000, 5.5000])
    """

    def __init__(
        self, modalities: Sequence[str], *, num_neighbours: int = 5, standardize: bool = True
    ) -> None:
        super().__init__(modalities, standardize=standardize)
        check_count("KNNImputer", "num_neighbours", num_neighbours)
        self.num_neighbours = num_neighbours

    @override
    def _more_state(self) -> list[str]:
        return ["donors", "donor_mask"]

    @override
    def _learn(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        return {"donors": x, "donor_mask": a}

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        donors, there = self.get_buffer("donors"), self.get_buffer("donor_mask")
        fills = torch.zeros_like(x)
        starts = torch.tensor([0, *self._sizes()]).cumsum(0).tolist()
        for block in torch.split(
            torch.arange(len(x), device=x.device), max(1, PAIRS_AT_ONCE // len(donors))
        ):
            near = self._squared_distances(x[block], a[block])
            for index, (start, stop) in enumerate(itertools.pairwise(starts)):
                rows = (~a[block, index]).nonzero()[:, 0]
                d, order = (
                    near[rows].masked_fill(~there[:, index], torch.inf).sort(dim=1, stable=True)
                )
                d, order = d[:, : self.num_neighbours], order[:, : self.num_neighbours]
                share = d.isfinite().to(x.dtype)
                found = (share[..., None] * donors[order, start:stop]).sum(dim=1)
                fills[block[rows], start:stop] = found / share.sum(dim=1, keepdim=True).clamp(min=1)
        return fills

    def _squared_distances(self, x: Tensor, a: Tensor) -> Tensor:
        """Return d^2 (n, R) to all training rows, inf where no modality is shared: as matrix products."""
        donors, there = self.get_buffer("donors"), self.get_buffer("donor_mask").to(x.dtype)
        sizes = torch.tensor(self._sizes(), dtype=x.dtype, device=x.device)
        own, theirs = self._expanded(a.to(x.dtype)), self._expanded(there)
        apart = x.square() @ theirs.T + own @ donors.square().T - 2 * x @ donors.T
        shared = (a * sizes) @ there.T
        return torch.where(
            shared > 0, sizes.sum() / shared.clamp(min=1) * apart.clamp(min=0), torch.inf
        )

    @override
    def _what_is_wrong_with(self, sizes: list[int], state: dict[str, Any]) -> str:
        rows = state["donors"].shape[0]
        return shapes_differ(
            "KNNImputer", state, {"donors": (rows, sum(sizes)), "donor_mask": (rows, len(sizes))}
        )
