"""Captions of the tables of a study."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.study.plan import FRESH_SEED, Plan
from milk_recsys.study.spaces import FORMER, METHODS, VARIANTS, WINNER
from milk_recsys.study.store import Line, Store

__all__ = ["captions_of"]

PAPERS = {*METHODS, *VARIANTS, "factors"}
"""Methods whose runs belong to the study of the paper."""


def _hours(lines: Iterable[Line]) -> float:
    """Return the hours that runs and their audits took."""
    return float(sum(x["seconds"] + x.get("audit", {}).get("seconds", 0) for x in lines)) / 3600


def captions_of(plan: Plan, store: Store, dataset: Dataset) -> dict[str, str]:
    """Return the caption of each table: data, trials, repeats, tests, date and machine."""
    what = (
        f"{dataset.name}, candidates: test items; {plan.trials} trials per method on a separate "
        "split"
    )
    how = f"{plan.repeats} repeats, mean ± standard deviation"
    where = ""
    if store.lines:
        last = store.lines[-1]
        versions = last["versions"]
        machine = f"{platform.machine()}, {versions['device']}, torch {versions['torch']}"
        where = f" {last['date']}, {machine}."
    former = ""
    if store.of("repeat", FORMER):
        former = f" {FORMER}: the first version of {WINNER}, whose options were tuned."
    paper = [
        x for x in store.lines if x["method"] in PAPERS and x["phase"] not in ("fresh", "timing")
    ]
    hours, paper_hours = f"{_hours(store.lines):.1f}", f"{_hours(paper):.1f}"
    return {
        "table1": (
            f"Split 0 of {dataset.name}. 20% of the items with interactions are new; half of these "
            "are test items."
        ),
        "table2": (
            f"{what}; {how}. The runs of the paper's study took {paper_hours} hours.{where}"
        ),
        "popular": (
            f"{what}, FTMT; {how}. NDCG@20 of all users, of the users who have the most popular "
            f"test item of their split (mean, and highest split), and of all others.{where}"
        ),
        "table3": (
            f"{what}, FTMT; {how}. Zero, mean and map are imputations of the same trained model "
            "without modules; map predicts missing features from the other modalities by ridge "
            f"regression.{where}"
        ),
        "table4": f"{what}, FTMT; {how}. All rows use the tuned options of MILK.{where}",
        **{
            name: f"{shown} {what}; {repeats}.{where}"
            for name, (shown, repeats) in _figures(plan, how).items()
        },
        "field": (
            f"{what}; {plan.repeats} repeats, mean ± half the width of a 95% t interval, corrected "
            "for splits that share items (Nadeau and Bengio). FTFT: the models of FTMT, tested on "
            "complete items. Most useful modality hidden: change of NDCG@20 when the modality "
            "whose absence costs most is hidden from all test items. Seconds: a whole run "
            "(factors, training, validation and all tests). Seconds to rank: ranking the test "
            "items once. p: two-sided t tests on log ratios of NDCG@20 under FTMT, paired over "
            "repeats, corrected for shared items and for the number of methods in the column "
            "(Holm); the rivals are MILK and the best of kNN, MARec and ridge on this set. "
            f"{WINNER} was designed with these splits in view, so its p-values here are too small. "
            f"All runs took {hours} hours, of which {paper_hours} belong to the paper's "
            f"study.{former}{where}"
        ),
        "patterns": (
            f"{what}, FTMT; {how} (not an interval). NDCG@20 of the test items with exactly these "
            f"modalities, ranked among all candidates, and of all test items with one modality "
            f"hidden.{where}"
        ),
        "without": (
            f"{dataset.name}, FTMT; {plan.repeats} repeats, mean ± half the width of a 95% t "
            f"interval. Each variant lacks one part of {WINNER}; its other options are chosen as "
            "always. p: two-sided t tests on log ratios, corrected for splits that share items but "
            f"not for the number of variants.{where}"
        ),
        "fresh": (
            f"{dataset.name}, {plan.fresh()} held-out splits (seeds from {FRESH_SEED} on), which "
            "no search has used; tuned methods have the options of the search. Two-sided t tests "
            "on log ratios, paired over splits, corrected for splits that share items (Nadeau and "
            "Bengio) and for the number of claims (Holm). Splits as independent: without the "
            "correction for shared items. Last column: number of splits in which a 95% bootstrap "
            f"interval over users excludes 0.{former}{where}"
        ),
        "search": (
            f"{dataset.name}, FTMT, validation items of a separate split: the number of the best "
            f"trial and its options.{where}"
        ),
        "verdicts": (
            f"{what}. Two-sided t tests on log ratios, paired over repeats, corrected for the "
            "number of claims (Holm). Claims are in the words of the paper, and sections are those "
            "of the paper. Last column: number of splits in which a 95% bootstrap interval over "
            "users excludes 0, for and against the claim; '1 for, 6 against of 10' means that the "
            "claim is significantly right in one split and significantly wrong in six."
            f"{where}"
        ),
    }


def _figures(plan: Plan, how: str) -> dict[str, tuple[str, str]]:
    """Return for each figure what its table shows, and what a row is the mean of."""
    lost = "Lost, FTMT: share of the NDCG@20 on complete test items that is lost under FTMT."
    return {
        "figure1": (f"NDCG@20 of DUIF by setting. {lost}", how),
        "figure3": (
            "NDCG@20 of all test items (overall) and of those that lose no, one or two modalities "
            "by the masks of this figure.",
            how,
        ),
        "figure4": (f"NDCG@20 of MILK and its ablations by setting. {lost}", how),
        "figure5": (f"NDCG@20 of MILK and its ablations. {lost}", how),
        "figure6": (
            "NDCG@20 of MILK with other values of one option; the other options stay as tuned.",
            "each row is a single run on one split",
        ),
        "why": (
            "NDCG@20 on complete test items, under FTMT and with one modality alone; share: part "
            "of the variance of the score that a modality contributes.",
            f"mean ± standard deviation over at most {plan.top_repeats()} repeats, with their "
            "number in each row",
        ),
    }
