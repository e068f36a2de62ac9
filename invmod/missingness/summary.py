"""Summary of the missing modalities of a data set: rates, patterns and pairs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from invmod.missingness.arrays import Array, Feature
from invmod.missingness.cells import Bools, missing_rows
from invmod.missingness.sentinels import IntegerFill


@dataclass(frozen=True)
class PatternCount:
    """The rows with one pattern of available modalities.

    Attributes:
        pattern: M bools, True for an available modality.
        missing: names of the missing modalities.
        count: number of rows.
        rate: share of all rows.

    Example:
        >>> PatternCount((True, False), ("image",), 3, 0.75).missing
        ('image',)
    """

    pattern: tuple[bool, ...]
    missing: tuple[str, ...]
    count: int
    rate: float


@dataclass(frozen=True)
class PairCount:
    r"""How often two modalities are missing from the same row.

    Attributes:
        first, second: names of the modalities.
        both: number of rows in which both are missing.
        expected: number of such rows if the two were missing independently of each other.
        correlation: of the two columns of the mask (phi coefficient); None if one of the
            modalities is missing in no row or in all rows.
        odds_ratio: odds that the second is missing where the first is missing, divided by the odds
            where the first is available. Each of the four counts is increased by 1/2, so that the
            ratio is finite.

    Example:
        >>> PairCount("image", "text", 4, 1.0, 0.8, 9.0).odds_ratio
        9.0
    """

    first: str
    second: str
    both: int
    expected: float
    correlation: float | None
    odds_ratio: float


@dataclass(frozen=True)
class MissingnessSummary:
    """The result of `missingness_summary`. ``print(summary)`` shows it as tables.

    Attributes:
        modalities: names of the modalities.
        num_rows: number of rows N.
        missing: number of rows in which each modality is missing, (M,).
        partial: number of rows in which only a part of each modality is missing, (M,). These rows
            count as available.
        patterns: one `PatternCount` per pattern that occurs; the most frequent first.
        both_missing: number of rows in which two modalities are missing, (M, M).

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True], [True, False], [True, False], [False, True]])
        >>> summary = missingness_summary(mask, ["image", "text"])
        >>> summary.rates, summary.complete_rows, summary.patterns[0].missing
        ((0.25, 0.5), 1, ('text',))
    """

    modalities: tuple[str, ...]
    num_rows: int
    missing: tuple[int, ...]
    partial: tuple[int, ...]
    patterns: tuple[PatternCount, ...]
    both_missing: tuple[tuple[int, ...], ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Missing rate of each modality, (M,); 0 without rows."""
        return tuple(count / max(self.num_rows, 1) for count in self.missing)

    @property
    def complete_rows(self) -> int:
        """Number of rows that have all modalities."""
        return sum(entry.count for entry in self.patterns if not entry.missing)

    @property
    def cell_rate(self) -> float:
        """Share of missing cells among all N M cells."""
        return sum(self.missing) / max(self.num_rows * len(self.modalities), 1)

    def pairs(self) -> tuple[PairCount, ...]:
        """Return the pairs of modalities that are both missing in some row.

        The pairs with the largest absolute correlation come first.
        """
        at_times = [index for index, count in enumerate(self.missing) if count]
        pairs = [self._pair(a, b) for a, b in itertools.combinations(at_times, 2)]
        return tuple(sorted(pairs, key=lambda pair: -abs(pair.correlation or 0.0)))

    def _pair(self, a: int, b: int) -> PairCount:
        n, in_a, in_b, both = (
            self.num_rows,
            self.missing[a],
            self.missing[b],
            self.both_missing[a][b],
        )
        only_a, only_b, neither = in_a - both, in_b - both, n - in_a - in_b + both
        spread = in_a * (n - in_a) * in_b * (n - in_b)
        return PairCount(
            first=self.modalities[a],
            second=self.modalities[b],
            both=both,
            expected=in_a * in_b / n,
            correlation=(n * both - in_a * in_b) / math.sqrt(spread) if spread else None,
            odds_ratio=(both + 0.5) * (neither + 0.5) / ((only_a + 0.5) * (only_b + 0.5)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return counts, rates and pairs as a dictionary of plain values, as `to_json` writes."""
        return {
            **dataclasses.asdict(self),
            "rates": self.rates,
            "cell_rate": self.cell_rate,
            "complete_rows": self.complete_rows,
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs()],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def missingness_summary(
    data: Array | Mapping[str, Feature | None],
    modalities: Sequence[str],
    *,
    integer_fill: IntegerFill = "auto",
) -> MissingnessSummary:
    r"""Count what is missing: rows per modality, patterns, and pairs that are missing together.

    For modalities m and k of a mask :math:`a` (N, M), the correlation of missingness is the phi
    coefficient of the pair's 2 x 2 table:

    .. math::
        \phi_{mk} = \frac{N n_{mk} - n_m n_k}{\sqrt{n_m (N - n_m) \, n_k (N - n_k)}}, \qquad
        n_{mk} = \sum_n (1 - a_{nm})(1 - a_{nk}), \quad n_m = n_{mm}

    where :math:`n_m` rows lack modality m, and :math:`n_{mk}` rows lack both.

    Arguments:
        data: a mask, bool (N, M) or name -> bool (N,), True means available; or features, name ->
            (N, ...). A feature is a tensor, a NumPy array of numbers, text or objects, a mapping
            key -> array, or None. NaN, None and blank text are missing values, and so are rows of
            integers that `integer_fill` names. A modality is missing in a row where all of its
            values are missing; if only some are, it counts as available and as `partial`.
        modalities: the M names in the order of the mask's columns. A modality whose feature is None
            or absent is missing in all rows.
        integer_fill: the value that marks a missing row of integers or bools, as in
            `mask_from_features`: -1 for signed integers by default.

    Raises:
        KeyError: `data` has a name that is not in `modalities`, or a mask lacks one.
        TypeError: a feature is neither a tensor, an array nor None, or a mask is not bool.
        ValueError: shapes do not fit, or the number of rows is unknown.

    References:
        Rubin, Inference and Missing Data, Biometrika 1976; Haldane, The Estimation and
        Significance of the Logarithm of a Ratio of Frequencies, 1956, for the 1/2 in the odds ratio
        of `PairCount`.

    Example:
        >>> import torch
        >>> nan = float("nan")
        >>> features = {"image": torch.tensor([[1.0, nan], [nan, nan]]),
        ...             "title": np.array(["cat", ""])}
        >>> summary = missingness_summary(features, ["image", "title"])
        >>> summary.missing, summary.partial, summary.pairs()[0].both
        ((1, 1), (1, 0), 1)
    """
    missing, partial = missing_rows("missingness_summary", data, modalities, integer_fill)
    return count_missing(missing, partial, tuple(modalities))


def count_missing(missing: Bools, partial: Bools, names: tuple[str, ...]) -> MissingnessSummary:
    """Return the summary of bool (N, M) arrays, True for missing."""
    num_rows = len(missing)
    patterns, counts = np.unique(missing, axis=0, return_counts=True)
    entries = [
        PatternCount(
            pattern=tuple((~row).tolist()),
            missing=tuple(name for name, lacks in zip(names, row, strict=True) if lacks),
            count=int(count),
            rate=int(count) / num_rows,
        )
        for row, count in zip(patterns, counts, strict=True)
    ]
    entries.sort(key=lambda entry: (-entry.count, len(entry.missing), entry.pattern[::-1]))
    # float64 counts are exact up to 2^53, and its matrix product is much faster than int64's.
    together = missing.T.astype(np.float64) @ missing.astype(np.float64)
    return MissingnessSummary(
        modalities=names,
        num_rows=num_rows,
        missing=tuple(missing.sum(axis=0).tolist()),
        partial=tuple(partial.sum(axis=0).tolist()),
        patterns=tuple(entries),
        both_missing=tuple(tuple(int(count) for count in row) for row in together),
    )
