"""Fill from the nearest training rows, compared in the modalities that both rows have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.imputation.joint import JointImputer, shape_error

PAIRS_AT_ONCE = 1 << 24  # maximum number of distances in memory: 128 MiB in float64


class _Donors(NamedTuple):
    """The R training rows, in the forms that the distances to them need."""

    features: Tensor  # x (R, D)
    mask: Tensor  # a (R, M), in the dtype of x
    entries: Tensor  # a (R, D), one column per entry
    squares: Tensor  # x^2 (R, D)


class KNNImputer(JointImputer):
    r"""Fill a missing modality with the mean of the k nearest training rows that have it.

    .. math::
        d^2(n, r) = \frac{D}{\sum_m a_{nm} a_{rm} D_m}
            \sum_m a_{nm} a_{rm} \lVert x_{nm} - x_{rm} \rVert^2

    where :math:`x_{nm}` and :math:`x_{rm}` are the features of the row n and of the training row r,
    :math:`a_{nm}` is 1 where the mask is True, :math:`D_m` is the number of entries of modality m,
    and D is their sum. The distance runs over the modalities that both rows have and is scaled up
    to all D entries, so that rows with few shared modalities do not seem near.

    Each missing modality has its own neighbours, among the training rows that have it. Of rows at
    equal distance, the one with the lower index comes first. If fewer than k rows qualify, all of
    them are used. If no training row shares a modality, as for a row without any, the fill is the
    mean of the training rows.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        num_neighbours: k, at least 1.
        standardize: divide each entry by its standard deviation over the observed training rows
            before distances are computed. Fills are returned in the units of the input in both
            cases. Do not standardize the features twice.

    Raises:
        TypeError, ValueError: `num_neighbours` is not an int of at least 1.

    References:
        Troyanskaya et al., Missing Value Estimation Methods for DNA Microarrays,
        Bioinformatics 17(6), 2001.

    Example:
        >>> a = torch.tensor([[0.0], [1.0], [9.0], [0.9]])
        >>> b = torch.tensor([[5.0], [6.0], [7.0], [0.0]])
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
    def _model_state_names(self) -> list[str]:
        return ["donors", "donor_mask"]

    @override
    def _fit_table(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        return {"donors": x, "donor_mask": a}

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        donors, donor_mask = self.get_buffer("donors"), self.get_buffer("donor_mask")
        fills = torch.zeros_like(x)
        starts = torch.tensor([0, *self._sizes()]).cumsum(0).tolist()
        # Computed once, because the distances of every block need them.
        a_donors = donor_mask.to(x.dtype)
        all_donors = _Donors(donors, a_donors, self._expanded(a_donors), donors.square())
        # Blocks of rows bound the memory of the table of distances (rows, training rows).
        for block in torch.split(
            torch.arange(len(x), device=x.device), max(1, PAIRS_AT_ONCE // len(donors))
        ):
            distances = self._squared_distances(x[block], a[block], all_donors)
            for index, (start, stop) in enumerate(itertools.pairwise(starts)):
                rows = (~a[block, index]).nonzero()[:, 0]
                # Training rows without this modality sort last. The stable sort keeps equal
                # distances in the order of rows.
                candidates = distances[rows].masked_fill(~donor_mask[:, index], torch.inf)
                d, order = candidates.sort(dim=1, stable=True)
                d, order = d[:, : self.num_neighbours], order[:, : self.num_neighbours]
                # A row at distance inf is not a neighbour. Without any neighbour the fill is 0, the
                # mean of the centred table.
                is_neighbour = d.isfinite().to(x.dtype)
                sums = (is_neighbour[..., None] * donors[order, start:stop]).sum(dim=1)
                counts = is_neighbour.sum(dim=1, keepdim=True)
                fills[block[rows], start:stop] = sums / counts.clamp(min=1)
        return fills

    def _squared_distances(self, x: Tensor, a: Tensor, donors: _Donors) -> Tensor:
        """Return d^2 (n, R) to all R training rows, inf where no modality is shared.

        The sums are matrix products: |x - y|^2 = |x|^2 + |y|^2 - 2 x y, where the squares are
        restricted to shared entries and the product is 0 for the others, which hold 0.
        """
        sizes = torch.tensor(self._sizes(), dtype=x.dtype, device=x.device)
        squares = (
            x.square() @ donors.entries.T
            + self._expanded(a.to(x.dtype)) @ donors.squares.T
            - 2 * x @ donors.features.T
        )
        num_shared = (a * sizes) @ donors.mask.T
        # Rounding can make the difference of squares slightly negative.
        return torch.where(
            num_shared > 0, sizes.sum() / num_shared.clamp(min=1) * squares.clamp(min=0), torch.inf
        )

    @override
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        rows = state["donors"].shape[0]
        return shape_error(
            "KNNImputer", state, {"donors": (rows, sum(sizes)), "donor_mask": (rows, len(sizes))}
        )
