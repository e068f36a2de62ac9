"""Fill from the nearest training rows, compared in the modalities that both rows have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.imputation.joint import JointImputer, shape_error

PAIRS_AT_ONCE = 1 << 24  # maximum number of distances in memory: 128 MiB in float64


# Squared distances that differ by less than this share of the k-th smallest are equal: the rounding
# of centred and scaled entries makes equal distances differ by some 1e-15.
TIE = 1e-9


class KNNImputer(JointImputer):
    r"""Fill a missing modality with the mean of the k nearest training rows that have it.

    .. math::
        d^2(n, r) = \frac{D}{\sum_m a_{nm} a_{rm} D_m}
            \sum_m a_{nm} a_{rm} \lVert x_{nm} - x_{rm} \rVert^2

    where :math:`x_{nm}` and :math:`x_{rm}` are the features of the row n and of the training row r,
    :math:`a_{nm}` is 1 where the mask is True, :math:`D_m` is the number of entries of modality m,
    and D is their sum. The distance runs over the modalities that both rows have and is scaled up
    to all D entries, so that rows with few shared modalities do not seem near.

    Each missing modality has its own neighbours, among the training rows that have it. Rows whose
    squared distance differs from the k-th smallest by less than 1e-9 of it are at equal distance,
    and of these the ones with lower indices are taken. The neighbours of a row do not depend on the
    other rows of a call. If fewer than k rows qualify, all of them are used. If no training row
    shares a modality, as for a row without any, the fill is the mean of the observed training rows.

    The neighbours depend on the values of a row, so this imputer cannot be exported or compiled
    into one graph. Call it before the graph, or use a `RidgeImputer` or a `PPCAImputer` with
    `linear_maps`.

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
        self.num_neighbours = check_count("KNNImputer", "num_neighbours", num_neighbours)

    @override
    def _model_state_names(self) -> list[str]:
        return ["donors", "donor_mask"]

    @override
    def _fit_table(self, x: Tensor, a: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        return {"donors": x, "donor_mask": a.to(x.dtype)}

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        donors, donor_mask = self.get_buffer("donors"), self.get_buffer("donor_mask") > 0.5
        fills = torch.zeros_like(x)
        starts = torch.tensor([0, *self._sizes()]).cumsum(0).tolist()
        # Blocks of rows bound the memory of the table of distances (rows, training rows).
        for block in torch.split(
            torch.arange(len(x), device=x.device), max(1, PAIRS_AT_ONCE // len(donors))
        ):
            distances, shared = self._squared_distances(x[block], a[block])
            for index, (start, stop) in enumerate(itertools.pairwise(starts)):
                rows = (~a[block, index]).nonzero()[:, 0]
                candidates = shared[rows] & donor_mask[:, index]
                neighbours, exists = _nearest(distances[rows], candidates, self.num_neighbours)
                # Without any neighbour the fill is 0, the mean of the centred table.
                sums = (exists[..., None] * donors[neighbours, start:stop]).sum(dim=1)
                counts = exists.sum(dim=1, keepdim=True)
                fills[block[rows], start:stop] = sums / counts.clamp(min=1)
        return fills

    def _squared_distances(self, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return d^2 (n, R) to all R training rows, and whether they share a modality.

        The differences are computed pair by pair. As a matrix product, |x|^2 + |y|^2 - 2 x y, equal
        distances would differ by rounding, which depends on the other rows of the product.
        """
        donors, donor_mask = self.get_buffer("donors"), self.get_buffer("donor_mask") > 0.5
        squares, num_shared = x.new_zeros(len(x), len(donors)), x.new_zeros(len(x), len(donors))
        sizes = self._sizes()
        for index, (own, others) in enumerate(
            zip(torch.split(x, sizes, dim=1), torch.split(donors, sizes, dim=1), strict=True)
        ):
            both = a[:, index, None] & donor_mask[:, index]
            distance = torch.cdist(
                own.contiguous(),
                others.contiguous(),
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            squares += torch.where(both, distance.square(), 0.0)
            num_shared += both * sizes[index]
        return sum(sizes) / num_shared.clamp(min=1) * squares, num_shared > 0

    @override
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        rows = state["donors"].shape[0]
        return shape_error(
            "KNNImputer", state, {"donors": (rows, sum(sizes)), "donor_mask": (rows, len(sizes))}
        )


def _nearest(d: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose the k nearest candidates of each row by the squared distances d (n, R).

    Returns:
        indices (n, k) in ascending order, and whether each of them exists (n, k).
    """
    num_donors = d.shape[1]
    k = min(k, num_donors)
    d = torch.where(candidates, d, torch.inf)
    # `kthvalue` has no deterministic implementation on some devices.
    kth = d.topk(k, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    nearer = d < kth * (1 - TIE)
    equal = candidates & ~nearer & (d <= kth * (1 + TIE))
    # Rows at equal distance take the places that are left, in the order of their indices.
    chosen = nearer | (equal & (equal.cumsum(dim=1) <= k - nearer.sum(dim=1, keepdim=True)))
    numbers = torch.where(chosen, torch.arange(num_donors, device=d.device), num_donors)
    indices = numbers.topk(k, dim=1, largest=False).values.sort(dim=1).values
    return indices.clamp(max=num_donors - 1), indices < num_donors
