"""Fill by ridge regression on the available modalities of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.joint import shape_error
from invmod.imputation.maps import LinearJointImputer
from invmod.missingness import rows_by_pattern


class RidgeImputer(LinearJointImputer):
    r"""Fill a missing modality by ridge regression on all available modalities of the row.

    For a missing modality t and the available modalities S of a row, the regression is fitted on
    the training rows r that have t and all of S:

    .. math::
        \min_{W, w_0} \sum_r \lVert x_{rt} - w_0 - W x_{rS} \rVert^2 + \lambda \lVert W \rVert_F^2
        \qquad\Rightarrow\qquad
        W = C_{tS} (C_{SS} + \lambda I)^{-1}

    where :math:`x_{rS}` are the concatenated entries of S, W and :math:`w_0` are the weights and
    the intercept, :math:`\lambda` is `ridge`, and C are the centred second moments of these rows.
    The intercept is not penalised. One joint regression on all of S does not count information
    twice that several modalities share.

    `fit` stores the sums of the training rows for each of their patterns. The regression for a
    pattern is solved from these sums when a row with that pattern is filled. If no training row has
    t and all of S, the modality of S that the fewest training rows have together with t is dropped
    (the last one of several), until there are such rows. If no modality remains, as for a row
    without any, the fill is the mean of the observed training rows.

    The regressions are solved for the patterns of a call, so this form cannot be exported or
    compiled into one graph. `linear_maps` returns the form that can.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        ridge: :math:`\lambda`, not negative. 0 gives least squares, and the solution of least norm
            if there are several.
        standardize: divide each entry by its standard deviation over the observed training rows, so
            that the penalty treats all entries equally. Fills are returned in the units of the
            input in both cases. Do not standardize the features twice.

    Raises:
        ValueError: `ridge` is negative or not finite.

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
        if not 0 <= ridge < math.inf:
            raise ValueError(
                f"RidgeImputer: `ridge` must be a finite number of at least 0, got {ridge}."
            )
        self.ridge = float(ridge)

    @override
    def _model_state_names(self) -> list[str]:
        return ["patterns", "counts", "sums", "moments"]

    @override
    def _fit_table(self, x: Tensor, a: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        groups = rows_by_pattern(a)
        # The moments of any set of patterns are sums of these, so no training row is stored.
        sums, moments = [], []
        for rows in groups.values():
            values = x[rows]
            sums.append(values.sum(dim=0))
            moments.append(values.T @ values)
        return {
            "patterns": torch.tensor(list(groups), dtype=torch.float64, device=x.device),
            "counts": torch.tensor(
                [len(rows) for rows in groups.values()], dtype=torch.float64, device=x.device
            ),
            "sums": torch.stack(sums),
            "moments": torch.stack(moments),
        }

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        fills = torch.zeros_like(x)
        for pattern, rows in rows_by_pattern(a).items():
            values = x[rows]
            for target, target_available in enumerate(pattern):
                sources = (
                    []
                    if target_available
                    else self._fittable_sources(
                        target, [m for m, available in enumerate(pattern) if available]
                    )
                )
                # Without sources the fill stays 0, the mean of the centred table.
                if sources:
                    target_columns = self._columns([target])
                    fills[rows[:, None], target_columns] = self._regress(values, target, sources)
        return fills

    def _fittable_sources(self, target: int, sources: list[int]) -> list[int]:
        """Drop the rarest source until some training row has the target and all sources."""
        patterns, counts = self._patterns(), self.get_buffer("counts")
        while sources and not patterns[:, [target, *sources]].all(dim=1).any():
            num_rows = [float(counts[patterns[:, [target, m]].all(dim=1)].sum()) for m in sources]
            # The second key breaks ties in favour of the last position.
            rarest = min(range(len(sources)), key=lambda index: (num_rows[index], -index))
            sources = sources[:rarest] + sources[rarest + 1 :]
        return sources

    def _regress(self, x: Tensor, target: int, sources: list[int]) -> Tensor:
        """Return the prediction (n, D_t) of the target by ridge regression on the sources."""
        with_all = self._patterns()[:, [target, *sources]].all(dim=1)
        s, t = self._columns(sources), self._columns([target])
        count = self.get_buffer("counts")[with_all].sum()
        mean = self.get_buffer("sums")[with_all].sum(dim=0) / count
        moments = self.get_buffer("moments")[with_all].sum(dim=0)
        # C_SS and C_St: second moments of these rows, centred at the means of these rows.
        c_ss = moments[s[:, None], s] - count * mean[s, None] * mean[s]
        c_st = moments[s[:, None], t] - count * mean[s, None] * mean[t]
        if self.ridge:
            c_ss.diagonal().add_(self.ridge)
            weights = torch.linalg.solve(c_ss, c_st)
        else:
            # The pseudoinverse gives the solution of least norm where C_SS is singular. Centring
            # loses digits, so C_SS is also 0 where it is small next to the moments.
            largest = float(moments.diagonal()[s].sum())
            weights = (
                torch.linalg.pinv(c_ss, hermitian=True, rtol=1e-10, atol=1e-12 * largest) @ c_st
            )
        predicted: Tensor = mean[t] + (x[:, s] - mean[s]) @ weights
        return predicted

    def _patterns(self) -> Tensor:
        """Return the patterns (G, M) of the training rows as bool."""
        return self.get_buffer("patterns") > 0.5

    def _columns(self, modalities: Sequence[int]) -> Tensor:
        """Return the columns of the table that belong to the modalities."""
        sizes = self._sizes()
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        parts = [torch.arange(starts[m], starts[m] + sizes[m]) for m in modalities]
        return torch.cat(parts).to(self.get_buffer("sums").device)

    @override
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        groups, dim = state["counts"].shape[0] if state["counts"].ndim else 0, sum(sizes)
        shapes = {"counts": (groups,), "patterns": (groups, len(sizes)), "sums": (groups, dim)}
        return shape_error("RidgeImputer", state, {**shapes, "moments": (groups, dim, dim)})
