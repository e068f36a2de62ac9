"""Statistical tests of the paper's claims, paired over repeats.

A repeat is a split seed and a training seed. All methods use the same ones, so differences are
paired. A claim is tested on one number per repeat, as a rule the log ratio of NDCG@20 of two
methods: a two-sided t test of its mean, with the p-values of all claims corrected together (Holm).
In addition, a bootstrap over the users of each split shows in how many single splits the difference
is significant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from milk_recsys.base.statistics import mean_interval
from milk_recsys.study.plan import Plan, best_trial, strongest
from milk_recsys.study.records import MONITOR, p_text
from milk_recsys.study.spaces import SWEEPS, VARIANTS, VARIANTS_IN_WORDS
from milk_recsys.study.store import Line, Store, user_values

__all__ = [
    "OVERLAP",
    "Claim",
    "better",
    "claims_of",
    "holm",
    "log_ratio",
    "pairs_of",
    "ranks_better",
    "rows",
    "users_agree",
    "verdict",
    "with_interval",
]

LEVEL = 0.05
"""Significance level of a verdict."""
OVERLAP = 0.1 / 0.8
"""Number of test items over number of training items of a split: 10% and 80% of the items."""
Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim and the values that it is tested on.

    Attributes:
        text: the claim, as a sentence.
        source: section of the paper that makes the claim.
        values: (R,) one number per repeat, above 0 if the claim is right; as a rule a log ratio.
        users: number of splits in which the bootstrap over users is significantly for the claim,
            and against it; None if the claim is not about a mean over users.
        note: the two means that are compared, as text.
        overlap: number of test items over number of training items (`OVERLAP`), for splits of the
            same items. Such splits share most of their training data, so the values are correlated.
            The variance of their mean is taken as (1 / R + overlap) times the variance of the
            values, with R the number of repeats. 0 means independent values.
        with_users: number of splits with the values of users; None means all of them.

    References:
        Nadeau and Bengio, Inference for the generalization error, Machine Learning 2003.
    """

    text: str
    source: str
    values: Array
    users: tuple[int, int] | None = None
    note: str = ""
    overlap: float = 0.0
    with_users: int | None = None

    @property
    def error(self) -> float:
        """Standard error of the mean, with the correction for overlapping splits."""
        return float(np.std(self.values, ddof=1) * np.sqrt(1 / len(self.values) + self.overlap))

    @property
    def all_equal(self) -> bool:
        """Whether the values show no variation, so that their t statistic is undefined."""
        return bool(np.allclose(self.values, self.values[:1], rtol=1e-9, atol=1e-12))

    @property
    def p(self) -> float:
        """The two-sided p-value of the t test, or of the sign test for equal values.

        R equal values other than 0 all have the same sign, which has the probability 2 / 2^R if
        both signs are equally likely. Values that are all 0 show no difference.
        """
        if self.all_equal:
            zero = bool((np.abs(self.values) <= 1e-12).all())
            return 1.0 if zero else 2.0 ** (1 - len(self.values))
        return float(2 * stats.t.sf(abs(self.values.mean()) / self.error, len(self.values) - 1))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% t interval of the mean; it excludes 0 exactly if `p` is below 5%.

        The interval of equal values is their value if the sign test is significant or they are 0.
        Otherwise it is unbounded, because too few equal values do not bound their mean.
        """
        if len(self.values) < 2:
            return -np.inf, np.inf
        mean = float(self.values.mean())
        if self.all_equal:
            known = self.p < LEVEL or abs(mean) <= 1e-12
            return (mean, mean) if known else (-np.inf, np.inf)
        half = float(stats.t.ppf(1 - LEVEL / 2, len(self.values) - 1)) * self.error
        return mean - half, mean + half


def verdict(claim: Claim, p: float) -> str:
    """Return the verdict on a claim, from the sign of its mean and its corrected p-value."""
    if p >= LEVEL:
        return "no significant difference"
    return "holds" if claim.values.mean() > 0 else "does not hold"


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests by Holm's method (1979), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    # `invmod.missingness.permutation.holm` is the same, but importing it imports torch, which
    # reading results avoids.
    order = np.argsort(p)
    largest, corrected = 0.0, [0.0] * len(p)
    for place, index in enumerate(order):
        # The maximum keeps the corrected values in the order of the given ones.
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = largest
    return corrected


def users_agree(a: Sequence[Line], b: Sequence[Line]) -> tuple[int, int]:
    """Count the splits whose mean difference over users is significantly above 0, and below 0.

    A split is significant if the 95% percentile interval of a bootstrap over its users excludes 0.
    Equal differences of all users have no such interval, and the sign test decides.
    """
    above = below = 0
    for first, second in zip(a, b, strict=True):
        differences = user_values(first) - user_values(second)
        low, high = mean_interval(differences) or Claim("", "", differences).interval
        above, below = above + (low > 0), below + (high < 0)
    return above, below


def with_interval(values: Sequence[float]) -> str:
    """Return a mean ± half the width of its 95% t interval, for splits that share items."""
    mean = f"{np.mean(values):.3f}"
    if len(values) < 2:
        return mean
    low, high = Claim("", "", np.array(values), overlap=OVERLAP).interval
    # Too few equal values have an unbounded interval.
    return f"{mean} ± {(high - low) / 2:.3f}" if np.isfinite(high - low) else mean


# --- the claims -----------------------------------------------------------------------------------


def claims_of(plan: Plan, store: Store) -> list[Claim]:
    """Return the claims for which the results file has runs, in the order of the paper."""
    claims: list[Claim | None] = []
    for setting in plan.settings:
        best = strongest(store, plan.baselines(), plan.repeats, setting)
        if best and "milk" in plan.methods:
            text = (
                f"MILK ranks new items better than the strongest baseline ({best[0]}) under "
                f"{setting.upper()}"
            )
            claims.append(better(store, text, "5.2", ("milk", best[0]), setting))
        if "duif" in best:
            text = f"MILK is far better than DUIF under {setting.upper()}"
            claims.append(better(store, text, "5.2", ("milk", "duif"), setting))
    for method, ablation, text in (
        ("align", "erm", "Alignment alone is better than no module under FTMT"),
        ("envs", "erm", "Environments alone are better than no module under FTMT"),
        ("milk", "align", "MILK is better than alignment alone under FTMT"),
        ("milk", "envs", "MILK is better than environments alone under FTMT"),
        ("milk", "erm", "Both modules are better than no module under FTMT"),
    ):
        claims.append(better(store, text, "5.4.1", (method, ablation), "ftmt"))
    claims += [_smaller_drop(store, method) for method in ("align", "envs", "milk")]
    claims += [_imputation(store, method) for method in ("align", "envs")]
    for name in VARIANTS:
        claims.append(
            better(
                store,
                f"MILK's environments are better than those {VARIANTS_IN_WORDS[name]}",
                "5.3.3",
                ("milk", name),
                "ftmt",
            )
        )
    claims += [
        _larger_gain_if_more_is_missing(store, strongest(store, plan.baselines(), plan.repeats))
    ]
    claims += [_missing_lowers(store, "duif")]
    return [claim for claim in claims if claim is not None and len(claim.values)]


def pairs_of(
    store: Store,
    methods: tuple[str, str],
    setting: str = "ftmt",
    phase: str = "repeat",
    limit: int | None = None,
) -> tuple[list[Line], list[Line]]:
    """Return the repeats of two methods with the same numbers, among the first `limit` of each."""
    first, second = (
        {x["number"]: x for x in store.ranked(phase, m, setting, limit=limit)} for m in methods
    )
    numbers = sorted(set(first) & set(second))
    return [first[n] for n in numbers], [second[n] for n in numbers]


def log_ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Return log(a / b), with values below 1e-12 raised to it, as a method without hits has 0."""
    tiny = 1e-12
    ratio: Array = np.log(np.maximum(a, tiny)) - np.log(np.maximum(b, tiny))
    return ratio


def better(
    store: Store,
    text: str,
    source: str,
    methods: tuple[str, str],
    setting: str,
    phase: str = "repeat",
    overlap: float = 0.0,
) -> Claim | None:
    """Return the claim that the first method has a higher NDCG@20; None if no repeat is common."""
    a, b = pairs_of(store, methods, setting, phase)
    return ranks_better(text, source, a, b, overlap) if a else None


def ranks_better(
    text: str,
    source: str,
    a: Sequence[Line],
    b: Sequence[Line],
    overlap: float = 0.0,
    part: str = "test",
) -> Claim:
    """Return the claim that the runs `a` have a higher NDCG@20 than the runs `b`.

    Arguments:
        a, b: runs on the same splits, in the same order.
        part: section of the runs `b` that is compared with the test section of `a`. The values of
            users are those of the test section, so without it there is no bootstrap over users.
    """
    x = [line["test"][MONITOR] for line in a]
    y = [line[part][MONITOR] for line in b]
    note = (
        f"NDCG@20 {np.mean(x):.3f} against {np.mean(y):.3f}, "
        f"{100 * (np.mean(x) / max(np.mean(y), 1e-12) - 1):+.1f}%"
    )
    with_users = [
        (first, second)
        for first, second in zip(a, b, strict=True)
        if part == "test" and "per_user" in first and "per_user" in second
    ]
    users = users_agree(*zip(*with_users, strict=True)) if with_users else None
    return Claim(text, source, log_ratio(x, y), users, note, overlap, len(with_users))


def _kept(lines: Sequence[Line]) -> Array:
    """Return NDCG@20 under FTMT as a share of NDCG@20 with complete test items (FTFT)."""
    return np.array([x["test"][MONITOR] / max(x["test_complete"][MONITOR], 1e-12) for x in lines])


def _smaller_drop(store: Store, method: str) -> Claim | None:
    """Return the claim that a method loses less from FTFT to FTMT than MILK without modules."""
    a, b = pairs_of(store, (method, "erm"))
    if not a:
        return None
    # The values are log ratios of the shares that are kept, so a smaller loss is above 0.
    text = f"From FTFT to FTMT, {method} loses a smaller share than erm (no module)"
    note = f"loses {100 * (1 - _kept(a).mean()):.1f}% against {100 * (1 - _kept(b).mean()):.1f}%"
    return Claim(text, "5.4.1", log_ratio(_kept(a), _kept(b)), None, note)


def _imputation(store: Store, method: str) -> Claim | None:
    """Return the claim that a module alone is better than each way of imputing without modules."""
    a, b = pairs_of(store, (method, "erm"))
    b = [x for x in b if "imputed" in x]
    if not a or len(a) != len(b):
        return None
    # The test section of `erm` uses mean imputation; "imputed" has zero and map imputation.
    best = [max(x["test"][MONITOR], *(v[MONITOR] for v in x["imputed"].values())) for x in b]
    mine = [x["test"][MONITOR] for x in a]
    text = f"{method} alone is better than the best of zero, mean and map imputation"
    note = f"NDCG@20 {np.mean(mine):.3f} against {np.mean(best):.3f}"
    return Claim(text, "5.3.2", log_ratio(mine, best), None, note)


def _larger_gain_if_more_is_missing(store: Store, rivals: Sequence[str]) -> Claim | None:
    """Return the claim that the gain of MILK grows with the number of missing modalities."""
    if not rivals:
        return None
    a, b = pairs_of(store, ("milk", rivals[0]))
    groups = ("missing 0", "missing 2")
    both = [
        (x, y) for x, y in zip(a, b, strict=True) if all(g in x.get("groups", {}) for g in groups)
    ]
    if not both:
        return None
    complete, two_missing = (
        log_ratio(
            [x["groups"][g][MONITOR] for x, _ in both], [y["groups"][g][MONITOR] for _, y in both]
        )
        for g in groups
    )
    text = (
        f"MILK's gain over {rivals[0]} is larger on items that miss two modalities than on "
        "complete items"
    )
    note = (
        f"gain {100 * np.expm1(two_missing.mean()):+.1f}% against "
        f"{100 * np.expm1(complete.mean()):+.1f}%"
    )
    return Claim(text, "5.3.1", two_missing - complete, None, note)


def _missing_lowers(store: Store, method: str) -> Claim | None:
    """Return the claim that a method loses when modalities are missing in the test items alone."""
    lines = store.ranked("repeat", method)
    if not lines:
        return None
    text = f"Modalities missing only at test time make {method} much worse"
    note = f"loses {100 * (1 - _kept(lines).mean()):.1f}%"
    return Claim(text, "1, Figure 1", -np.log(np.maximum(_kept(lines), 1e-12)), None, note)


def small_alpha(store: Store) -> str | None:
    """Report the alpha that is best on validation; its single repeat per value allows no test."""
    points = {
        value: store.of(f"sweep alpha={value:g}", "milk", limit=1) for value in SWEEPS["alpha"]
    }
    if not all(points.values()):
        return None
    best = max(points, key=lambda value: points[value][0]["validation"][MONITOR])
    tuned = best_trial(store.of("trial", "milk"))["tuned"]["alpha"]
    return (
        f"The best alpha of the sweep is {best:g} on validation (in the paper 0.01 and 0.1); the "
        f"tuned value is {tuned:.3g}."
    )


def rows(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return the rows of a table of claims, with p-values that are corrected together."""
    corrected = holm([claim.p for claim in claims])
    independent = holm([dataclasses.replace(claim, overlap=0.0).p for claim in claims])
    table = []
    for claim, p, p_independent in zip(claims, corrected, independent, strict=True):
        low, high = claim.interval
        users = (
            ""
            if claim.users is None
            else f"{claim.users[0]} for, {claim.users[1]} against of "
            f"{len(claim.values) if claim.with_users is None else claim.with_users}"
        )
        table.append(
            {
                "claim": claim.text,
                "section": claim.source,
                "verdict": verdict(claim, p),
                "comparison": claim.note,
                "mean log ratio [95%]": f"{claim.values.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                "p (Holm)": p_text(p),
                **({"p, splits as independent": p_text(p_independent)} if claim.overlap else {}),
                "repeats": str(len(claim.values)),
                "splits significant over users": users,
            }
        )
    return table
