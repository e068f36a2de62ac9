"""Tables of the comparison of training methods in examples/missing_study.py."""

import datetime
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

__all__ = ["summary", "table"]


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
        "chosen",
    ]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        cells = [pair(row["by_hidden"][count]) for count in counts] + [pair(row["worst"])]
        cells.append("" if row["method"] == "ERM" else pair(row["difference"], signed=True))
        cells.append(", ".join(f"{key} {value:g}" for key, value in row["config"].items()))
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    made = f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread"
    note = f"{caption} Means over seeds ± half of a 95% t interval. Made {made}."
    return "\n".join([*lines, "", note]) + "\n"


def pair(value: tuple[float, float], *, signed: bool = False) -> str:
    """Format a mean and half of the width of its interval, without the latter if it is NaN."""
    mean, half = value
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return text if half != half else f"{text} ± {half:.3f}"  # only NaN differs from itself
