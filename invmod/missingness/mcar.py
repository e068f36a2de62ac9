"""Tests of whether values are missing completely at random (MCAR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from invmod._checks import check_choice, check_count
from invmod.missingness.arrays import Feature
from invmod.missingness.cells import (
    Bools,
    Floats,
    as_array,
    feature_cells,
    missing_rows,
    numeric_rows,
)
from invmod.missingness.little import NotComputable, little_statistic
from invmod.missingness.mcar_results import McarTest, ModalityTest
from invmod.missingness.permutation import holm, permutation_p, standardized
from invmod.missingness.sentinels import IntegerFill, integer_fills

Method = Literal["auto", "little", "permutation"]
METHODS = ("auto", "little", "permutation")
MAX_ROWS = 20_000  # rows that a permutation test uses of each modality; more are sampled


def mcar_test(
    features: Mapping[str, Feature | None],
    modalities: Sequence[str],
    *,
    method: Method = "auto",
    num_permutations: int = 999,
    integer_fill: IntegerFill = "auto",
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
    likelihood estimates of a normal distribution. The p-value is asymptotic: it needs many rows,
    and values that are not far from normal.

    ``"permutation"`` is for modalities of any width. For each modality m it takes the rows that
    have m completely, groups them by the pattern of the other modalities, and compares the
    variation between groups with that after random permutations of the rows:

    .. math::
        F_m = \sum_j n_j \lVert \bar z_j - \bar z \rVert^2

    where :math:`z` are the standardized values of m. It is exact for independent rows and needs
    neither a distribution nor more rows than columns. The p-values are corrected for the number
    of modalities by Holm's method; the smallest one is the result.

    Neither test can see that the chance to be missing depends on the missing value itself, if no
    observed value is related to it.

    Arguments:
        features: name -> (N, ...), as for `missingness_summary`. Only numbers are tested. Text,
            objects and mappings still define the patterns of the permutation test.
        modalities: the M names.
        method: ``"little"``, ``"permutation"``, or ``"auto"``: Little's test if each numeric
            modality has one value per row, else the permutation test.
        integer_fill: as for `missingness_summary`.
        num_permutations: B; no p-value is smaller than 1 / (1 + B).
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
    missing, partial = missing_rows("mcar_test", features, modalities, integer_fill)
    fills = integer_fills("mcar_test", integer_fill, tuple(modalities))
    numeric = {}
    for name in modalities:
        given = features.get(name)
        if given is None or isinstance(given, Mapping):
            continue
        values = as_array("mcar_test", name, given)
        if values.dtype.kind not in "fiub":
            continue
        rows = numeric_rows(values, feature_cells("mcar_test", name, values, fills[name]))
        if rows.shape[1] and not np.isnan(rows).all():
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
        z = standardized(numeric[name][complete])
        if len(complete) < 3 or z.shape[1] == 0 or groups.max(initial=0) == 0:
            continue
        used[complete] = True
        p = permutation_p(z, groups, num_permutations, rng)
        found.append((name, len(complete), int(groups.max()) + 1, p))
    tested = tuple(name for name, *_ in found)
    left_out = tuple(name for name in names if name not in tested)
    if not found:
        reason = (
            "no modality has numbers that vary and that occur under two or more patterns of the "
            "other modalities."
        )
        return _result("permutation", left_out, reason=reason)
    adjusted = holm([p for *_, p in found])
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
