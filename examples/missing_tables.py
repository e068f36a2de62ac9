"""Tables of the comparison of methods in examples/missing_study.py."""

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from invmod.missingness.permutation import holm
from missing_kernels import ENCODER, KERNEL_METHODS

__all__ = [
    "MEASURES",
    "by_number_hidden",
    "comparison_tables",
    "half_width",
    "made_text",
    "pair",
    "summary",
    "table",
]

# A part -> the method that trains in the same way without it.
CONTROLS = {
    "more-versus-fewer": "two masks",
    "singular values": "alignment",
    "PPCA": "dropout",
    "EmbraceNet": "dropout",
    "proxies": "dropout",
}
BEST_WITHOUT = "environments"
# Measures of a run, and their titles in a table. The first pattern of a run has all modalities.
MEASURES: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "complete": ("complete", lambda values: values[0]),
    "mean": ("mean over patterns", np.mean),
    "worst": ("worst pattern", np.min),
}


def by_number_hidden(values: Mapping[str, float]) -> dict[int, float]:
    """Average over the patterns with the same number of hidden modalities.

    Arguments:
        values: name of a pattern -> metric.

    Returns:
        number of hidden modalities -> mean of the metric.
    """
    # The name of a pattern joins its modalities by "+", so the longest pattern has the most of
    # them.
    max_joins = max(name.count("+") for name in values)
    groups: dict[int, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(max_joins - name.count("+"), []).append(value)
    return {count: float(np.mean(group)) for count, group in sorted(groups.items())}


def half_width(values: npt.ArrayLike) -> float:
    """Half of the width of the 95% t interval of a mean; NaN for a single value."""
    x = np.asarray(values, dtype=float)
    return (
        float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
        if len(x) > 1
        else float("nan")
    )


def summary(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarise the results of `Study.run`, one row per method.

    A row has means and intervals over splits, by number of hidden modalities and for the worst
    pattern, and the paired difference from ERM on the worst pattern.
    """
    rows = []
    worst = {
        method: [min(run["test"].values()) for run in entry["runs"]]
        for method, entry in results.items()
    }
    for method, entry in results.items():
        hidden = [by_number_hidden(run["test"]) for run in entry["runs"]]
        difference = np.subtract(worst[method], worst["ERM"])
        rows.append(
            {
                "method": method,
                "by_hidden": {
                    count: (
                        float(np.mean([h[count] for h in hidden])),
                        half_width([h[count] for h in hidden]),
                    )
                    for count in hidden[0]
                },
                "worst": (float(np.mean(worst[method])), half_width(worst[method])),
                "difference": (float(difference.mean()), half_width(difference)),
                "trials": len(entry["tuning"]),
                "config": entry["config"],
            }
        )
    return rows


def table(rows: Iterable[Mapping[str, Any]], caption: str) -> str:
    """Format a summary as a table in Markdown, with a caption below it."""
    rows = list(rows)
    counts = list(rows[0]["by_hidden"])
    header = [
        "method",
        *("complete" if c == 0 else f"{c} hidden" for c in counts),
        "worst pattern",
        "against ERM",
        "trials",
        "chosen",
    ]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        cells = [pair(row["by_hidden"][count]) for count in counts] + [pair(row["worst"])]
        cells.append("" if row["method"] == "ERM" else pair(row["difference"], signed=True))
        cells.append(str(row["trials"]))
        cells.append(", ".join(f"{key} {value:g}" for key, value in row["config"].items()))
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    note = (
        f"{caption} Means over seeds ± half of a 95% t interval. Trials: number of configurations "
        f"that were compared on validation rows. Made {made_text()}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def made_text() -> str:
    """Return date, machine and version of torch for the note below a table."""
    return f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread"


def pair(value: tuple[float, float], *, signed: bool = False) -> str:
    """Format a mean and half of the width of its interval, without the latter if it is NaN."""
    mean, half = value
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return text if half != half else f"{text} ± {half:.3f}"  # only NaN differs from itself


# --- comparisons ----------------------------------------------------------------------------------


def part_pairs(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair each part with its control and with the environments."""
    return [
        (part, baseline)
        for part, control in CONTROLS.items()
        for baseline in (control, BEST_WITHOUT)
        if part in results
    ]


def kernel_pairs(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair the kernel regression with every trained method, and those on embeddings with it.

    Those on embeddings are also paired with the method that trained the encoder, and with each
    other.
    """
    raw, on_z, validated = KERNEL_METHODS
    trained = [(raw, method) for method in results if method not in KERNEL_METHODS]
    embedded = [(method, baseline) for method in (on_z, validated) for baseline in (ENCODER, raw)]
    pairs = [*trained, *embedded, (validated, on_z)]
    return [pair for pair in pairs if set(pair) <= set(results)]


def compare(
    results: Mapping[str, Mapping[str, Any]],
    test_share: float,
    pairs: Sequence[tuple[str, str]],
    measures: Iterable[str] = ("mean", "worst"),
) -> list[dict[str, Any]]:
    """Compare pairs of methods by some of the `MEASURES`.

    The splits share rows, so the variance of a mean over n splits is not 1/n of the variance over
    splits. It is multiplied by 1/n + r, where r is the number of test rows divided by the number of
    training rows (Nadeau and Bengio, Inference for the Generalization Error, 2003). The p-values
    are of a two-sided t test; Holm's correction is over all pairs of a measure.

    Arguments:
        results: of `Study.run`.
        test_share: r.
        pairs: names of two methods each.
        measures: names of measures.

    Returns:
        one row per pair, with (difference, half width, corrected p) per measure.
    """
    rows: list[dict[str, Any]] = [{"method": method, "baseline": other} for method, other in pairs]
    for measure in measures:
        of_patterns = MEASURES[measure][1]
        values = {
            method: np.array([of_patterns(list(run["test"].values())) for run in entry["runs"]])
            for method, entry in results.items()
        }
        tests = [
            corrected_t_test(values[method] - values[other], test_share) for method, other in pairs
        ]
        p_values = [p for _, _, p in tests]
        # A single split gives NaN, which Holm's correction would turn into 1.
        adjusted = p_values if np.isnan(p_values).any() else holm(p_values)
        for row, (mean, half, _), p in zip(rows, tests, adjusted, strict=True):
            row[measure] = mean, half, p
    return rows


def corrected_t_test(differences: npt.ArrayLike, test_share: float) -> tuple[float, float, float]:
    """Return mean, half of the 95% interval, and p-value of paired differences over splits."""
    x = np.asarray(differences, dtype=float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    error = (x.var(ddof=1) * (1 / len(x) + test_share)) ** 0.5
    mean, half = float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * error)
    if error == 0:
        return mean, half, float(mean == 0)
    return mean, half, float(2 * stats.t.sf(abs(mean) / error, len(x) - 1))


def comparison_table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Format the rows of `compare` as a table in Markdown."""
    measures = [measure for measure in MEASURES if measure in rows[0]]
    titles = " | ".join(f"{MEASURES[measure][0]} | p" for measure in measures)
    lines = [f"| method | compared with | {titles} |", f"|{' --- |' * (2 + 2 * len(measures))}"]
    for row in rows:
        cells = [
            text
            for measure in measures
            for text in (pair(row[measure][:2], signed=True), p_text(row[measure][2]))
        ]
        lines.append(f"| {row['method']} | {row['baseline']} | {' | '.join(cells)} |")
    note = (
        f"Differences of {metric} ± half of a 95% interval over splits, corrected for the rows "
        "that splits share; p-values after Holm correction over the rows of the table."
    )
    return "\n".join([*lines, "", note]) + "\n"


def comparison_tables(
    results: Mapping[str, Mapping[str, Any]], test_share: float, metric: str
) -> str:
    """Return the table of the parts and that of the kernel regressions."""
    parts = compare(results, test_share, part_pairs(results))
    kernels = compare(results, test_share, kernel_pairs(results), MEASURES)
    # A study of a few methods may have no parts.
    return "\n".join(comparison_table(rows, metric) for rows in (parts, kernels) if rows)


def p_text(p: float) -> str:
    """Format a p-value with two significant digits, or as a bound if it is below 0.001."""
    return "" if p != p else "< 0.001" if p < 0.001 else f"{p:.2g}"  # only NaN differs from itself
