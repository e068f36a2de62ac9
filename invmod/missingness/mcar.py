"""Tests of whether values are missing completely at random (MCAR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from invmod._checks import check_choice, check_count
from invmod.missingness.cells import Bools, Floats, as_array, missing_cells, numeric_rows
from invmod.missingness.little import NotComputable, little_statistic
from invmod.missingness.summary import Array, missing_rows

Method = Literal["auto", "little", "permutation"]
METHODS = ("auto", "little", "permutation")
MAX_ROWS = 20_000  # rows that a permutation test uses of each modality; more are sampled


@dataclass(frozen=True)
class ModalityTest:
    """The permutation test of one modality's values.

    Attributes:
        modality: name of the modality.
        num_rows: number of rows that the test uses.
        num_patterns: number of patterns of the other modalities among these rows.
        p_value: uncorrected p value.
        adjusted_p_value: p value after Holm's correction for the number of tested modalities.

    Example:
        >>> ModalityTest("text", 80, 2, 0.01, 0.02).adjusted_p_value
        0.02
    """

    modality: str
    num_rows: int
    num_patterns: int
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class McarTest:
    """The result of `mcar_test`. ``print(result)`` states it in a sentence.

    Attributes:
        method: ``"little"`` or ``"permutation"``.
        p_value: None if the test could not be computed.
        reason: why it could not be computed, or None.
        statistic, degrees_of_freedom: of Little's test, else None.
        num_permutations: of the permutation test, else 0.
        num_rows: number of rows with at least one tested value.
        tested: names of the modalities whose values are tested.
        left_out: names of the modalities whose values are not tested, because they are not numbers
            or do not vary enough.
        modalities: one `ModalityTest` per tested modality; empty for Little's test.

    Example:
        >>> print(str(McarTest("little", 0.2, None, 3.2, 2, 0, 90, ("a", "b"), (), ()))[:62])
        Little's test: chi square 3.20, 2 degrees of freedom, p = 0.2.
    """

    method: str
    p_value: float | None
    reason: str | None
    statistic: float | None
    degrees_of_freedom: int | None
    num_permutations: int
    num_rows: int
    tested: tuple[str, ...]
    left_out: tuple[str, ...]
    modalities: tuple[ModalityTest, ...]

    def __str__(self) -> str:
        name = "Little's test" if self.method == "little" else "Permutation test"
        if self.p_value is None:
            return f"{name} of MCAR: not computed, because {self.reason}"
        figures = (
            f"chi square {self.statistic:.2f}, {self.degrees_of_freedom} degrees of freedom"
            if self.method == "little"
            else f"{self.num_permutations} permutations, {len(self.modalities)} modalities"
        )
        verdict = (
            "The data contradict MCAR at the 5% level."
            if self.p_value < 0.05
            else "The data do not contradict MCAR, which is no proof of it."
        )
        return f"{name}: {figures}, p {shown_p(self.p_value, self.smallest_p)}. {verdict}"

    @property
    def smallest_p(self) -> float:
        """Smallest p value that the number of permutations allows; 0 for Little's test."""
        return len(self.modalities) / (1 + self.num_permutations) if self.modalities else 0.0


def shown_p(p: float, smallest: float = 0.0) -> str:
    """Return "= p", or "<= smallest" if p is the smallest value that the test can give.

    Example:
        >>> shown_p(0.0312), shown_p(0.001, 0.001), shown_p(1e-9)
        ('= 0.0312', '<= 0.001', '= 1e-09')
    """
    return f"<= {smallest:.2g}" if 0 < p <= smallest * (1 + 1e-9) else f"= {p:.3g}"


def mcar_test(
    features: Mapping[str, Array | None],
    modalities: Sequence[str],
    *,
    method: Method = "auto",
    num_permutations: int = 999,
    generator: torch.Generator | None = None,
) -> McarTest:
    r"""Test whether modalities are missing completely at random.

    Under MCAR, the pattern of available modalities is independent of all values. Both tests look
    for patterns whose rows have other means. ``"little"`` is Little's test for single numeric
    columns:

    .. math::
        d^2 = \sum_j n_j (\bar y_j - \hat\mu_j)^\top \tilde\Sigma_j^{-1} (\bar y_j - \hat\mu_j)
        \;\sim\; \chi^2\Big(\sum_j p_j - p\Big)

    where pattern j has :math:`n_j` rows with :math:`p_j` of the p columns and the mean
    :math:`\bar y_j`; :math:`\hat\mu_j, \tilde\Sigma_j` are these columns' part of the maximum
    likelihood estimates of a normal distribution. The p value is asymptotic: it needs many rows,
    and values that are not far from normal.

    ``"permutation"`` is for modalities of any width. For each modality m it takes the rows that
    have m completely, groups them by the pattern of the other modalities, and compares the
    variation between groups with that after random permutations of the rows:

    .. math::
        F_m = \sum_j n_j \lVert \bar z_j - \bar z \rVert^2

    where :math:`z` are the standardized values of m. It is exact for independent rows and needs
    neither a distribution nor more rows than columns. The p values are corrected for the number
    of modalities by Holm's method; the smallest one is the result.

    Neither test can see that the chance to be missing depends on the missing value itself, if no
    observed value is related to it.

    Arguments:
        features: name -> (N, ...), as for `missingness_summary`. Only numbers are tested; the other
            modalities still define the patterns of the permutation test.
        modalities: the M names.
        method: ``"little"``, ``"permutation"``, or ``"auto"``: Little's test if each numeric
            modality has one value per row, else the permutation test.
        num_permutations: B; no p value is smaller than 1 / (1 + B).
        generator: seeds the permutations; None is the global generator.

    Returns:
        `McarTest`. Where the test cannot be computed, its `p_value` is None and its `reason` says
        why.

    Raises:
        KeyError, TypeError, ValueError: as `missingness_summary`, for `method` and for
            `num_permutations`.

    References:
        Little, A Test of Missing Completely at Random for Multivariate Data with Missing Values,
        JASA 1988; Anderson, A New Method for Non-Parametric Multivariate Analysis of Variance,
        Austral Ecology 2001, for the statistic of the permutation test.

    Example:
        >>> x = torch.arange(40.0)[:, None]
        >>> y = torch.where(x > 25, float("nan"), x.sin())  # missing where x is large
        >>> features = {"x": x, "y": y}
        >>> result = mcar_test(features, ["x", "y"])
        >>> result.method, result.degrees_of_freedom, result.p_value < 0.001
        ('little', 1, True)
    """
    check_choice("mcar_test", "method", method, METHODS)
    check_count("mcar_test", "num_permutations", num_permutations)
    missing, partial = missing_rows("mcar_test", features, modalities)
    numeric = {}
    for name in modalities:
        if (given := features.get(name)) is not None:
            values = as_array("mcar_test", name, given)
            rows = numeric_rows(values, missing_cells(values))
            if rows is not None and rows.shape[1] and not np.isnan(rows).all():
                numeric[name] = rows
    for name, rows in numeric.items():
        if np.isinf(rows).any():
            raise ValueError(
                f"mcar_test: the feature of {name!r} has an infinity. Clip it or set it to NaN."
            )
    if method == "auto":
        method = "little" if all(rows.shape[1] == 1 for rows in numeric.values()) else "permutation"
    left_out = tuple(name for name in modalities if name not in numeric)
    if not (missing.any() or partial.any()):
        return _result(method, left_out, reason="no value is missing.")
    if method == "little":
        return _little(numeric, left_out)
    return _permutation(numeric, missing, tuple(modalities), left_out, num_permutations, generator)


def _result(method: str, left_out: tuple[str, ...], **known: Any) -> McarTest:
    empty: dict[str, Any] = {
        "p_value": None,
        "reason": None,
        "statistic": None,
        "degrees_of_freedom": None,
        "num_permutations": 0,
        "num_rows": 0,
        "tested": (),
        "modalities": (),
    }
    return McarTest(method=method, left_out=left_out, **empty | known)


def _little(numeric: dict[str, Floats], left_out: tuple[str, ...]) -> McarTest:
    wide = [name for name, rows in numeric.items() if rows.shape[1] > 1]
    if wide:
        reason = f"it is a test of single columns, and {wide[0]!r} has several values per row."
        return _result("little", left_out, reason=reason)
    if not numeric:
        return _result("little", left_out, reason="no column has numbers.")
    y = np.concatenate(list(numeric.values()), axis=1)
    try:
        statistic, degrees, used = little_statistic(y, tuple(numeric))
    except NotComputable as error:
        return _result("little", left_out, reason=str(error))
    # The survival function of chi square is the regularized upper incomplete gamma function.
    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    p = float(torch.special.gammaincc(half[0], half[1]))
    return _result(
        "little",
        left_out,
        p_value=p,
        statistic=statistic,
        degrees_of_freedom=degrees,
        num_rows=used,
        tested=tuple(numeric),
    )


def _permutation(
    numeric: dict[str, Floats],
    missing: Bools,
    names: tuple[str, ...],
    left_out: tuple[str, ...],
    num_permutations: int,
    generator: torch.Generator | None,
) -> McarTest:
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    found: list[tuple[str, int, int, float]] = []
    used = np.zeros(len(missing), dtype=bool)
    for index, name in enumerate(names):
        if name not in numeric:
            continue
        rng = np.random.default_rng([seed, index])
        complete = np.flatnonzero(~np.isnan(numeric[name]).any(axis=1))
        if len(complete) > MAX_ROWS:
            complete = np.sort(rng.choice(complete, MAX_ROWS, replace=False))
        _, groups = np.unique(missing[complete], axis=0, return_inverse=True)
        groups = groups.reshape(-1)
        z = _standardized(numeric[name][complete])
        if len(complete) < 3 or z.shape[1] == 0 or groups.max(initial=0) == 0:
            continue
        used[complete] = True
        p = _permutation_p(z, groups, num_permutations, rng)
        found.append((name, len(complete), int(groups.max()) + 1, p))
    tested = tuple(name for name, *_ in found)
    left_out = tuple(name for name in names if name not in tested)
    if not found:
        reason = (
            "no modality has numbers that vary and that occur under two or more patterns of the "
            "other modalities."
        )
        return _result("permutation", left_out, reason=reason)
    adjusted = _holm([p for *_, p in found])
    return _result(
        "permutation",
        left_out,
        p_value=min(adjusted),
        num_permutations=num_permutations,
        num_rows=int(used.sum()),
        tested=tested,
        modalities=tuple(
            ModalityTest(name, rows, patterns, p, corrected)
            for (name, rows, patterns, p), corrected in zip(found, adjusted, strict=True)
        ),
    )


def _standardized(rows: Floats) -> Floats:
    """Return the columns that vary, with mean 0 and standard deviation 1."""
    if not len(rows):
        return rows[:, :0]
    centred = rows - rows.mean(axis=0)
    spread = centred.std(axis=0)
    # A constant column has a spread of the order of its rounding errors instead of 0.
    varies = spread > 1e-12 * np.abs(rows).max(axis=0)
    kept: Floats = centred[:, varies] / spread[varies]
    return kept


def _permutation_p(
    z: Floats, groups: np.ndarray[Any, Any], num_permutations: int, rng: np.random.Generator
) -> float:
    """Return the p value of the variation of z (n, K) between groups (n,)."""
    sizes = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def between(rows: np.ndarray[Any, Any]) -> float:
        # Rows are sorted by group, so that each group is a contiguous slice to sum.
        sums = np.add.reduceat(z[rows], starts, axis=0)
        return float(((sums**2).sum(axis=1) / sizes).sum())

    observed = between(order)
    # Values that differ only by the order of summation count as ties.
    as_large = sum(
        between(rng.permutation(len(z))) >= observed * (1 - 1e-9) for _ in range(num_permutations)
    )
    return (1 + as_large) / (1 + num_permutations)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's step-down correction.

    Example:
        >>> _holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
