"""What each modality is worth: its loss when hidden, its weight, and a verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from milk_recsys.report.findings import Findings
from milk_recsys.report.values import FEW_CUSTOMERS, Answer, Loss, modalities_of
from milk_recsys.report.words import finite, listed, number, pattern

__all__ = ["Worth", "pattern_findings", "unused", "weight_rows", "worth_answer", "worth_rows"]


@dataclass(frozen=True)
class Worth:
    """A row of the table of modalities.

    Attributes:
        loss: None if the modality was not hidden, because it is the only one.
        use: verdict in words.
        used: False if the model's lists do not depend on the modality where all are there.
    """

    modality: str
    loss: Loss | None
    use: str
    used: bool = True


def worth_rows(metrics: Mapping[str, Any], findings: Findings) -> list[Worth]:
    """Return a row for each modality, the one with the largest loss first."""
    weights = _complete_weights(metrics)
    rows = [
        Worth(loss.modality, loss, *_use(loss, weights, first=place == 0))
        for place, loss in enumerate(findings.losses)
    ]
    known = {row.modality for row in rows}
    rest = [name for name in modalities_of(metrics) if name not in known]
    return rows + [Worth(name, None, "not measured") for name in rest]


def worth_answer(findings: Findings, rows: Sequence[Worth]) -> Answer:
    """Return the answer on the modality with the largest loss, with those that are not used."""
    names = unused(rows)
    if not names:
        return findings.worth
    words = listed([f"“{name}”" for name in names])
    return replace(findings.worth, headline=f"{findings.worth.headline} Not used: {words}.")


def pattern_findings(metrics: Mapping[str, Any], findings: Findings) -> list[str]:
    """Return a sentence for each pattern in which the model is below one of its comparisons.

    Patterns with few customers are left out, because their values are uncertain.
    """
    sentences, metric = [], findings.metric
    for key, section in (metrics.get("by_pattern") or {}).items():
        ours = finite(section.get(metric))
        if ours is None or (section.get("users") or 0) < FEW_CUSTOMERS:
            continue
        better = []
        for part, title in (("floor", "content kNN"), ("chance", "a random order")):
            sections = (metrics.get(part) or {}).get("by_pattern") or {}
            theirs = finite((sections.get(key) or {}).get(metric))
            if theirs is not None and theirs > ours:
                better.append(f"{title} ({number(theirs)})")
        if better:
            label = pattern(key, modalities_of(metrics))
            sentences.append(
                f"Take care with items of the pattern “{label}”: there {findings.name} "
                f"({number(ours)}) is below {listed(better)}."
            )
    return sentences


def unused(rows: Sequence[Worth]) -> list[str]:
    """Return the names of the modalities that the model does not use."""
    return [row.modality for row in rows if not row.used]


def _use(loss: Loss, weights: Mapping[str, float], *, first: bool) -> tuple[str, bool]:
    """Return the verdict on a modality, and whether the model uses it."""
    change = loss.estimate
    if weights.get(loss.modality) == 0:
        kept = [f"“{name}”" for name, weight in weights.items() if weight > 0]
        return f"not used if {listed(kept)} {'is' if len(kept) == 1 else 'are'} there", False
    if change.value == 0 and change.low == change.high == 0:
        return "not used: no list changes without it", False
    if change.excludes_zero is None:
        return "significance unknown", True
    if not change.excludes_zero:
        return "no measurable use", True
    if change.value < 0:
        return "lists are better without it", True
    return ("worth most" if first else "useful"), True


def _chosen_patterns(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of each pattern that the method chose; empty for most methods."""
    patterns = (metrics.get("chosen") or {}).get("patterns")
    return patterns if isinstance(patterns, Mapping) else {}


def _complete_weights(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the weight of each modality in the pattern of all modalities; empty if unknown."""
    names = modalities_of(metrics)
    weights = (_chosen_patterns(metrics).get("+".join(names)) or {}).get("weights") or []
    return dict(zip(names, weights, strict=True)) if len(weights) == len(names) else {}


def weight_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the weights that the method chose, for each pattern: modality -> text of a cell.

    The weights of a pattern belong to its modalities, in the order of all modalities. A modality
    that the pattern lacks has a dash.
    """
    names, rows = modalities_of(metrics), []
    for key, options in _chosen_patterns(metrics).items():
        own = [name for name in names if name in _members(key, names)]
        weights = dict(zip(own, options.get("weights") or [], strict=False))
        if len(weights) == len(own) > 0:
            cells = [number(weights.get(name), 3) for name in names]
            rows.append((pattern(key, names), cells))
    return rows


def _members(key: str, names: Sequence[str]) -> list[str]:
    """Return the modalities of a pattern; a name may contain "+", so none is split."""
    rest = f"{key}+"
    members: list[str] = []
    for name in names:
        if rest.startswith(f"{name}+"):
            rest, members = rest[len(name) + 1 :], [*members, name]
    return [] if rest else members
