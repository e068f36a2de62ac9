"""Fill every missing row of a modality with one constant row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.base import Imputer
from invmod.missingness.masks import ROWS_AT_ONCE, MaskLike, append_axes, mask_columns


class _ConstantImputer(Imputer):
    """Fill a modality's missing rows with one constant row, a buffer ``fill_<index>``."""

    @override
    def _state_names(self) -> list[str]:
        return [f"fill_{index}" for index in range(len(self.modalities))]

    @abstractmethod
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Learn the constant of each modality from the given rows alone.

        Arguments:
            features: modality name -> (N, ...), exactly the names of `modalities`; what lies in masked cells is
                never read.
            mask: bool (N, M) or name -> (N,): what is observed.
            rows: int64 (n,), the training rows; all N where None. Read in blocks: no second copy of the table.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit; for a mean also: no observed row, or one with NaN.
        """

    def _keep(self, fills: Sequence[Tensor | None]) -> None:
        for index, fill in enumerate(fills):
            setattr(self, f"fill_{index}", fill)

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the unavailable rows.

        Arguments:
            features: modality name -> (N, ...); a name that is absent or None is filled throughout.
            mask: bool (N, M) or name -> (N,): what is available.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M).

        Raises:
            RuntimeError: not fitted, or a modality was in no row so far.
            KeyError: an unknown modality.
            TypeError, ValueError: shapes or types do not fit.
        """
        function = type(self).__name__
        unseen = [
            name
            for index, name in enumerate(self.modalities)
            if getattr(self, f"fill_{index}") is None
        ]
        if len(unseen) == len(self.modalities):
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")
        if unseen:
            raise RuntimeError(
                f"{function}: not fitted yet for {unseen}: no row so far had them. Give rows that do."
            )
        num_rows = self._check(function, features, mask)
        columns = mask_columns(function, mask, self.modalities, num_rows)
        filled = {}
        for index, name in enumerate(self.modalities):
            fill: Tensor = getattr(self, f"fill_{index}")
            x = features.get(name)
            if x is None:
                filled[name] = fill.expand(
                    num_rows, *fill.shape
                ).clone()  # never a view of the buffer
                continue
            if x.shape[1:] != fill.shape:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have shape (N, "
                    f"{', '.join(map(str, fill.shape))}) as in `fit`, got {tuple(x.shape)}."
                )
            filled[name] = torch.where(append_axes(columns[:, index], x), x, fill.to(x.dtype))
        return filled, torch.ones_like(columns)


class ZeroImputer(_ConstantImputer):
    """Fill missing rows with zeros.

    Arguments:
        modalities: the M names in the order of the mask's columns.

    Example:
        >>> features = {"text": torch.tensor([[1.0, 2.0], [float("nan"), 4.0]])}
        >>> mask = torch.tensor([[True], [False]])
        >>> filled, usable = ZeroImputer(["text"]).fit(features, mask)(features, mask)
        >>> filled["text"], usable
        (tensor([[1., 2.],
                [0., 0.]]), tensor([[True],
                [True]]))
    """

    @override
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        self._observed("ZeroImputer.fit", features, mask, rows)
        given = [features[name] for name in self.modalities]
        self._keep([torch.zeros(x.shape[1:], dtype=x.dtype, device=x.device) for x in given])
        return self


class _Sum(NamedTuple):
    """The observed rows of a modality so far: their sum in float64, how many, and what dtype their mean has."""

    total: Tensor
    num_rows: int
    dtype: torch.dtype

    def mean(self) -> Tensor:
        """Return the fill."""
        return (self.total / self.num_rows).to(self.dtype)


class MeanImputer(_ConstantImputer):
    r"""Fill missing rows with the mean of the observed training rows, the imputation of MILK's Eq. 18.

    .. math::
        \mu_m = \frac{\sum_{n \in \mathrm{rows}} a_{nm} x_{nm}}{\sum_{n \in \mathrm{rows}} a_{nm}}

    summed in float64 whatever the dtype of the features (float16 sums overflow). Features larger than memory are fitted
    block by block, with `partial_fit`.

    Arguments:
        modalities: the M names in the order of the mask's columns.

    References:
        Bai et al., SIGIR 2024, sections 4.4 and 5.1.1.

    Example:
        >>> features = {"text": torch.tensor([[1.0], [3.0], [100.0], [float("nan")]])}
        >>> mask = torch.tensor([[True], [True], [True], [False]])
        >>> imputer = MeanImputer(["text"]).fit(features, mask, rows=torch.tensor([0, 1, 3]))
        >>> imputer(features, mask)[0]["text"][:, 0]
        tensor([  1.,   3., 100.,   2.])
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        self._sums: list[_Sum | None] = [None] * len(self.modalities)  # not part of the state

    @override
    def fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        sums = self._added("MeanImputer.fit", features, mask, rows, [None] * len(self.modalities))
        for name, one in zip(self.modalities, sums, strict=True):
            if one is None:
                raise ValueError(
                    f"MeanImputer.fit: modality {name!r} is observed in none of the given rows, so it "
                    "has no mean. Give rows that have it, or leave the modality out."
                )
        self._hold(sums)
        return self

    def partial_fit(
        self, features: Mapping[str, Tensor], mask: MaskLike, rows: Tensor | None = None
    ) -> Self:
        """Add rows to those that the means are taken over, as if all had been given to `fit` at once.

        `fit` starts afresh, this goes on. The sums behind the means are no part of a ``state_dict``, so an imputer
        that was loaded cannot go on. A modality that no row has had so far has no mean yet, and using the imputer then
        is an error.

        Arguments:
            features: modality name -> (N, ...), a block of rows, with exactly the names of `modalities`.
            mask: bool (N, M) or name -> (N,): what is observed.
            rows: int64 (n,), the training rows of the block; all N where None.

        Returns:
            itself.

        Raises:
            RuntimeError: the means were loaded.
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit, those of earlier rows included, or an observed row has
                NaN.

        Example:
            >>> imputer = MeanImputer(["text"])
            >>> for block in (torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])):
            ...     imputer = imputer.partial_fit({"text": block}, torch.ones(len(block), 1, dtype=torch.bool))
            >>> imputer({}, torch.zeros(1, 1, dtype=torch.bool))[0]["text"]
            tensor([[3.]])
        """
        if any(
            one is None and getattr(self, f"fill_{index}") is not None
            for index, one in enumerate(self._sums)
        ):
            raise RuntimeError(
                "MeanImputer.partial_fit: the means were loaded, and the sums behind them are not saved. Call `fit`, "
                "or begin with a new imputer."
            )
        self._hold(self._added("MeanImputer.partial_fit", features, mask, rows, self._sums))
        return self

    def _added(
        self,
        function: str,
        features: Mapping[str, Tensor],
        mask: MaskLike,
        rows: Tensor | None,
        before: Sequence[_Sum | None],
    ) -> list[_Sum | None]:
        """Return the sums with the given rows added to those before."""
        chosen = self._observed(function, features, mask, rows)
        return [
            _add(f"{function}: modality {name!r}", one, features[name], some)
            for name, one, some in zip(self.modalities, before, chosen, strict=True)
        ]

    def _hold(self, sums: list[_Sum | None]) -> None:
        self._sums = sums
        self._keep([None if one is None else one.mean() for one in sums])

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Forget the sums of the means that are replaced."""
        names = [f"{prefix}fill_{index}" for index in range(len(self.modalities))]
        self._sums = [
            None if name in state_dict else one for name, one in zip(names, self._sums, strict=True)
        ]
        super()._load_from_state_dict(state_dict, prefix, *others)


def _add(where: str, before: _Sum | None, values: Tensor, rows: Tensor) -> _Sum | None:
    """Add the given rows of one modality, block by block, in float64."""
    if not values.is_floating_point():
        raise TypeError(f"{where} must be floating point to have a mean, got {values.dtype}.")
    if before is not None and before.total.shape != values.shape[1:]:
        raise ValueError(
            f"{where} must have shape (N, {', '.join(map(str, before.total.shape))}) as in the rows before, "
            f"got {tuple(values.shape)}."
        )
    if len(rows) == 0:
        return before
    total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
    for block in torch.split(rows, ROWS_AT_ONCE):
        total += values[block.to(values.device)].to(torch.float64).sum(dim=0)
    if not total.isfinite().all():
        raise ValueError(
            f"{where} has NaN or an infinity in a row that the mask calls observed. Make the mask with "
            "`mask_from_features`."
        )
    dtype = torch.promote_types(values.dtype, torch.float32)
    if before is None:
        return _Sum(total, len(rows), dtype)
    total += before.total.to(total.device)
    return _Sum(total, before.num_rows + len(rows), torch.promote_types(dtype, before.dtype))
