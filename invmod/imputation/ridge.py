"""Fill by a ridge regression on what a row has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.joint import JointImputer, shapes_differ
from invmod.missingness import rows_by_pattern


class RidgeImputer(JointImputer):
    r"""Fill a missing modality by the ridge regression on all that a row has.

    For a target t and the modalities S that a row has, over the training rows that have t and all of S,

    .. math::
        \min_{W, w_0} \sum_r \lVert x_{rt} - w_0 - W x_{rS} \rVert^2 + \lambda \lVert W \rVert_F^2
        \qquad\Rightarrow\qquad
        W = C_{tS} (C_{SS} + \lambda I)^{-1}

    with C the centred second moments of these rows, so the intercept is not penalised. There is a map for every
    pattern that is met, solved when it is met from sums over the training rows, one for each pattern *they* have: S
    counts as a whole, and what its modalities say twice does not count twice. Where no training row has t and all of S,
    the modality of S that the fewest training rows have together with t is left out (the later of several), and so on;
    where none is left, as for a row that has nothing, the fill is the mean of the training rows.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        ridge: :math:`\lambda`, not negative; 0 gives least squares, of least norm where there are several.
        standardize: divide each entry by its standard deviation over the observed training rows, so that the penalty
            treats entries alike. Fills come back in the units of the input either way; do not scale before and here as
            well.

    Raises:
        ValueError: `ridge` is negative.

    References:
        Hoerl and Kennard, Ridge Regression, Technometrics 12(1), 1970.

    Example:
        >>> a = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        >>> mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
        >>> imputer = RidgeImputer(["a", "b"], ridge=0.0).fit({"a": a, "b": 3 * a + 1}, mask)
        >>> imputer({"a": a, "b": torch.zeros(4, 1)}, mask)[0]["b"][:, 0].round(decimals=4)
        tensor([ 0.,  0.,  0., 13.])
    """

    def __init__(
        self, modalities: Sequence[str], *, ridge: float = 1.0, standardize: bool = True
    ) -> None:
        super().__init__(modalities, standardize=standardize)
        if not ridge >= 0:
            raise ValueError(f"RidgeImputer: `ridge` must not be negative, got {ridge}.")
        self.ridge = float(ridge)

    @override
    def _more_state(self) -> list[str]:
        return ["patterns", "counts", "sums", "moments"]

    @override
    def _learn(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        groups = rows_by_pattern(a)
        return {
            "patterns": torch.tensor(list(groups), dtype=torch.bool, device=x.device),
            "counts": torch.tensor(
                [len(rows) for rows in groups.values()], dtype=torch.float64, device=x.device
            ),
            "sums": torch.stack([x[rows].sum(dim=0) for rows in groups.values()]),
            "moments": torch.stack([x[rows].T @ x[rows] for rows in groups.values()]),
        }

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        fills = torch.zeros_like(x)
        for pattern, rows in rows_by_pattern(a).items():
            for target, there in enumerate(pattern):
                sources = (
                    []
                    if there
                    else self._sources(target, [m for m, has in enumerate(pattern) if has])
                )
                if sources:
                    into = self._columns([target])
                    fills[rows[:, None], into] = self._map(x[rows], target, sources)
        return fills

    def _sources(self, target: int, sources: list[int]) -> list[int]:
        """Return the sources with the rarest left out until some training row has the target and all of them."""
        patterns, counts = self.get_buffer("patterns"), self.get_buffer("counts")
        while sources and not patterns[:, [target, *sources]].all(dim=1).any():
            together = [float(counts[patterns[:, [target, m]].all(dim=1)].sum()) for m in sources]
            rarest = min(range(len(sources)), key=lambda place: (together[place], -place))
            sources = sources[:rarest] + sources[rarest + 1 :]
        return sources

    def _map(self, x: Tensor, target: int, sources: list[int]) -> Tensor:
        """Return the target (n, D_t) as the ridge regression on the sources has it."""
        with_all = self.get_buffer("patterns")[:, [target, *sources]].all(dim=1)
        s, t = self._columns(sources), self._columns([target])
        count = self.get_buffer("counts")[with_all].sum()
        mean = self.get_buffer("sums")[with_all].sum(dim=0) / count
        moments = self.get_buffer("moments")[with_all].sum(dim=0)
        inner = moments[s[:, None], s] - count * mean[s, None] * mean[s]
        cross = moments[s[:, None], t] - count * mean[s, None] * mean[t]
        if self.ridge:
            inner.diagonal().add_(self.ridge)
            weights = torch.linalg.solve(inner, cross)
        else:
            weights = torch.linalg.pinv(inner, hermitian=True, rtol=1e-10) @ cross
        filled: Tensor = mean[t] + (x[:, s] - mean[s]) @ weights
        return filled

    def _columns(self, modalities: Sequence[int]) -> Tensor:
        """Return the columns of the table that belong to the modalities."""
        sizes = self._sizes()
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        parts = [torch.arange(starts[m], starts[m] + sizes[m]) for m in modalities]
        return torch.cat(parts).to(self.get_buffer("sums").device)

    @override
    def _what_is_wrong_with(self, sizes: list[int], state: dict[str, Any]) -> str:
        groups, dim = state["counts"].shape[0] if state["counts"].ndim else 0, sum(sizes)
        shapes = {"counts": (groups,), "patterns": (groups, len(sizes)), "sums": (groups, dim)}
        return shapes_differ("RidgeImputer", state, {**shapes, "moments": (groups, dim, dim)})
