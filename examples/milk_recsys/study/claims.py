"""The paper's claims, put to a test: paired over repeats, and a verdict in plain words.

A repeat is a pair of a split and a training seed, alike for all methods, so differences are paired. A figure that
decides a claim is a log ratio a repeat; its mean is tested by a two-sided t test, and the claims' p values are
corrected together (Holm). Within each split a bootstrap over users says beside it how sure that one split is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from milk_recsys.study.plan import Plan, best_trial, strongest
from milk_recsys.study.records import MONITOR
from milk_recsys.study.spaces import ABLATIONS, SWEEPS, VARIANTS
from milk_recsys.study.store import Line, Store, user_values

__all__ = [
    "OVERLAP",
    "Claim",
    "better",
    "claims_of",
    "holm",
    "log_ratio",
    "pairs_of",
    "rows",
    "users_agree",
    "verdict",
]

LEVEL = 0.05
OVERLAP = 0.1 / 0.8
RESAMPLES = 1000
Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, and what speaks for it.

    Attributes:
        text: the claim, as a sentence; source: where the paper makes it.
        values: (R,) a number a repeat that is above 0 where the claim is right: a log ratio, as a rule.
        users: in how many splits the bootstrap over users agrees, and disagrees; None where it is not one of users.
        note: what the figures are.
        overlap: of splits of the same items, test items over training items (`OVERLAP`): they share most of their
            data, so that the variance of the mean is (1 / R + overlap) times that of the values (Nadeau and Bengio,
            Inference for the generalization error, Machine Learning 2003). 0: as if they were independent.
    """

    text: str
    source: str
    values: Array
    users: tuple[int, int] | None = None
    note: str = ""
    overlap: float = 0.0

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return float(np.std(self.values, ddof=1) * np.sqrt(1 / len(self.values) + self.overlap))

    @property
    def p(self) -> float:
        """The t test's two-sided p value; 1 where there is too little to tell."""
        if len(self.values) < 2 or np.allclose(self.values, self.values[0]):
            return 1.0
        return float(2 * stats.t.sf(abs(self.values.mean()) / self.error, len(self.values) - 1))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% t interval of the mean."""
        if len(self.values) < 2:
            return -np.inf, np.inf
        half = float(stats.t.ppf(0.975, len(self.values) - 1)) * self.error
        return float(self.values.mean()) - half, float(self.values.mean()) + half


def verdict(claim: Claim, p: float) -> str:
    """Say in words what a claim's mean and corrected p value mean."""
    if p >= LEVEL:
        return "cannot be told on this data"
    return "holds" if claim.values.mean() > 0 else "does not hold"


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979), in their order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    worst, found = 0.0, [0.0] * len(p)
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - place) * p[index]))
        found[index] = worst
    return found


def users_agree(a: Sequence[Line], b: Sequence[Line]) -> tuple[int, int]:
    """Count the splits in which the mean difference over users is surely above 0, and surely below.

    A split is sure where the 95% percentile interval of a bootstrap over its users leaves 0 out.
    """
    above = below = 0
    for one, other in zip(a, b, strict=True):
        difference = user_values(one) - user_values(other)
        if len(difference) < 2 or (difference == difference[0]).all():
            continue
        found = stats.bootstrap(
            (difference,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=50,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        above, below = above + bool(found.low > 0), below + bool(found.high < 0)
    return above, below


# --- the claims -------------------------------------------------------------------------------------------------------


def claims_of(plan: Plan, store: Store) -> list[Claim]:
    """Make the claims that the store has the runs for, in the paper's order."""
    found: list[Claim | None] = []
    baselines = [
        m for m in plan.methods if m not in ABLATIONS and m not in ("content_knn", "random")
    ]
    for setting in plan.settings:
        best = strongest(store, baselines, plan.repeats, setting)
        if best and "milk" in plan.methods:
            text = f"MILK ranks new items better than the strongest baseline ({best[0]}) under {setting.upper()}"
            found.append(better(store, text, "5.2", ("milk", best[0]), setting))
        if "duif" in best:
            text = f"MILK is far better than DUIF under {setting.upper()}"
            found.append(better(store, text, "5.2", ("milk", "duif"), setting))
    for one, other, text in (
        ("align", "erm", "Alignment alone improves on neither module under FTMT"),
        ("envs", "erm", "Environments alone improve on neither module under FTMT"),
        ("milk", "align", "Environments add to alignment under FTMT"),
        ("milk", "envs", "Alignment adds to environments under FTMT"),
        ("milk", "erm", "Both modules improve on neither under FTMT"),
    ):
        found.append(better(store, text, "5.4.1", (one, other), "ftmt"))
    found += [_smaller_drop(store, one) for one in ("align", "envs", "milk")]
    found += [_imputation(store, one) for one in ("align", "envs")]
    for name in VARIANTS:
        found.append(
            better(
                store,
                f"MILK's environments are better than those {name}",
                "5.3.3",
                ("milk", name),
                "ftmt",
            )
        )
    found += [_more_where_more_is_missing(store, strongest(store, baselines, plan.repeats))]
    found += [_missing_hurts(store, "duif")]
    return [claim for claim in found if claim is not None and len(claim.values)]


def pairs_of(
    store: Store,
    methods: tuple[str, str],
    setting: str = "ftmt",
    phase: str = "repeat",
    limit: int | None = None,
) -> tuple[list[Line], list[Line]]:
    """Return both methods' repeats that have the same number, of the first `limit`."""
    one, other = (
        {x["number"]: x for x in store.ranked(phase, m, setting, limit=limit)} for m in methods
    )
    numbers = sorted(set(one) & set(other))
    return [one[n] for n in numbers], [other[n] for n in numbers]


def log_ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Return log(a / b); a method without any hit counts as 1e-12."""
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
    """Claim that the first method's NDCG@20 is above the second's; None without a pair of repeats."""
    a, b = pairs_of(store, methods, setting, phase)
    if not a:
        return None
    x, y = ([line["test"][MONITOR] for line in lines] for lines in (a, b))
    note = f"NDCG@20 {np.mean(x):.4f} against {np.mean(y):.4f}, {100 * (np.mean(x) / max(np.mean(y), 1e-12) - 1):+.1f}%"
    return Claim(text, source, log_ratio(x, y), users_agree(a, b), note, overlap)


def _kept(lines: Sequence[Line]) -> Array:
    """Share of NDCG@20 that is left under FTMT, of that with nothing removed."""
    return np.array([x["test"][MONITOR] / max(x["test_complete"][MONITOR], 1e-12) for x in lines])


def _smaller_drop(store: Store, method: str) -> Claim | None:
    a, b = pairs_of(store, (method, "erm"))
    if not a:
        return None
    text = f"From FTFT to FTMT, {method} loses a smaller share than neither module"
    note = f"loses {100 * (1 - _kept(a).mean()):.1f}% against {100 * (1 - _kept(b).mean()):.1f}%"
    return Claim(text, "5.4.1", log_ratio(_kept(a), _kept(b)), None, note)


def _imputation(store: Store, method: str) -> Claim | None:
    a, b = pairs_of(store, (method, "erm"))
    b = [x for x in b if "imputed" in x]
    if not a or len(a) != len(b):
        return None
    best = [max(x["test"][MONITOR], *(v[MONITOR] for v in x["imputed"].values())) for x in b]
    mine = [x["test"][MONITOR] for x in a]
    text = f"{method} alone is better than the best of zero, mean and map imputation"
    note = f"NDCG@20 {np.mean(mine):.4f} against {np.mean(best):.4f}"
    return Claim(text, "5.3.2", log_ratio(mine, best), None, note)


def _more_where_more_is_missing(store: Store, rivals: Sequence[str]) -> Claim | None:
    if not rivals:
        return None
    a, b = pairs_of(store, ("milk", rivals[0]))
    groups = ("missing 0", "missing 2")
    both = [
        (x, y) for x, y in zip(a, b, strict=True) if all(g in x.get("groups", {}) for g in groups)
    ]
    if not both:
        return None
    few, many = (
        log_ratio(
            [x["groups"][g][MONITOR] for x, _ in both], [y["groups"][g][MONITOR] for _, y in both]
        )
        for g in groups
    )
    text = f"MILK's gain over {rivals[0]} is larger on items that miss two modalities than on complete ones"
    note = f"gain {100 * np.expm1(many.mean()):+.1f}% against {100 * np.expm1(few.mean()):+.1f}%"
    return Claim(text, "5.3.1", many - few, None, note)


def _missing_hurts(store: Store, method: str) -> Claim | None:
    lines = store.ranked("repeat", method)
    if not lines:
        return None
    text = f"Modalities that are missing at test time alone make {method} much worse"
    note = f"loses {100 * (1 - _kept(lines).mean()):.1f}%"
    return Claim(text, "1, Figure 1", -np.log(np.maximum(_kept(lines), 1e-12)), None, note)


def small_alpha(store: Store) -> str | None:
    """Say which alpha is best on validation: the claim that it is a small one rests on one repeat a point."""
    points = {
        value: store.of(f"sweep alpha={value:g}", "milk", limit=1) for value in SWEEPS["alpha"]
    }
    if not all(points.values()):
        return None
    best = max(points, key=lambda value: points[value][0]["validation"][MONITOR])
    tuned = best_trial(store.of("trial", "milk"))["tuned"]["alpha"]
    return f"The best alpha of the sweep is {best:g} on validation (the paper: .01 and .1); the tuned one is {tuned:.3g}."


def rows(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Put claims with their corrected verdicts into rows of a table."""
    corrected = holm([claim.p for claim in claims])
    plain = holm([dataclasses.replace(claim, overlap=0.0).p for claim in claims])
    found = []
    for claim, p, independent in zip(claims, corrected, plain, strict=True):
        low, high = claim.interval
        users = (
            ""
            if claim.users is None
            else f"{claim.users[0]} for, {claim.users[1]} against of {len(claim.values)}"
        )
        found.append(
            {
                "claim": claim.text,
                "section": claim.source,
                "verdict": verdict(claim, p),
                "figures": claim.note,
                "mean log ratio [95%]": f"{claim.values.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                "p (Holm)": f"{p:.3g}",
                **({"p, splits as independent": f"{independent:.3g}"} if claim.overlap else {}),
                "repeats": str(len(claim.values)),
                "splits that users decide": users,
            }
        )
    return found
