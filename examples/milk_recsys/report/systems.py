"""The systems that a page compares, as columns, and the rows of its tables of figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milk_recsys.report.findings import Findings
from milk_recsys.report.values import FEW_CUSTOMERS, modalities_of, title_of
from milk_recsys.report.verdict import candidates_of
from milk_recsys.report.words import finite, metric_name, number, pattern, percent

__all__ = ["Section", "System", "measures", "quality_rows", "sections_of", "systems_of"]

SECTION_TITLES = {
    "test": "Test items, with gaps",
    "test_complete": "Test items, complete",
    "test_all_cold": "Test items, among all new items",
    "validation": "Validation items, with gaps",
}
MEASURES = (
    ("hit@10", "Customers who took at least one of the first 10"),
    ("recall@10", "Items that a customer took: share among the first 10"),
    ("recall@20", "Items that a customer took: share among the first 20"),
)
PERCENTAGES = ("hit", "recall")


@dataclass(frozen=True)
class System:
    """A column: its title, and the part of metrics.json that has its sections."""

    title: str
    part: Mapping[str, Any]
    random: bool = False

    def section(self, path: Sequence[str]) -> Mapping[str, Any]:
        """Return the metrics at a path such as ("by_pattern", "text"); empty if there are none."""
        # Hiding a modality changes neither candidates nor positives, and so no random order.
        if self.random and path[0] in ("imposed", "test_complete"):
            path = ("test",)
        section: Any = self.part
        for key in path:
            section = (section or {}).get(key)
        return section or {}


@dataclass(frozen=True)
class Section:
    """A table of all metrics: its title, a note with its sizes, and a row for each metric."""

    title: str
    note: str
    rows: list[tuple[str, list[Any]]]


def systems_of(metrics: Mapping[str, Any], findings: Findings) -> list[System]:
    """Return the columns: the model, its ablation, content kNN and a random order."""
    systems = [System(findings.name, metrics)]
    if findings.rival is not None:
        systems.append(System(findings.rival, metrics["compare"]))
    untrained = metrics.get("floor") or {}
    if "test" in untrained:
        systems.append(System(title_of(untrained["model"]), untrained))
    if metrics.get("chance"):
        systems.append(System("random order", metrics["chance"], random=True))
    return systems


def quality_rows(
    metrics: Mapping[str, Any], findings: Findings, systems: Sequence[System]
) -> list[tuple[str, str, list[str]]]:
    """Return the main rows: a measure in words, its metric, and the value of each system."""
    rows = []
    for metric, label in (*MEASURES, (findings.metric, "Quality of the order")):
        places = int(metric.partition("@")[2] or 0)
        kind = metric.partition("@")[0]
        full = kind in PERCENTAGES and 0 < candidates_of(metrics) <= places
        note = " (always 100%: the places hold all candidates)" if full else ""
        values = [finite(system.section(("test",)).get(metric)) for system in systems]
        share = kind in PERCENTAGES
        cells = ["–" if v is None else percent(v) if share else number(v) for v in values]
        rows.append((label + note, metric, cells))
    return rows


def measures(
    systems: Sequence[System], places: Mapping[str, tuple[str, ...]], metric: str
) -> list[tuple[str, list[Any]]]:
    """Return a row for each place: its label, and the value of the metric of each system."""
    rows = []
    for label, path in places.items():
        values = [system.section(path).get(metric) for system in systems]
        if any(finite(value) is not None for value in values):
            rows.append((label, values))
    return rows


def sections_of(metrics: Mapping[str, Any], systems: Sequence[System]) -> list[Section]:
    """Return a table of all metrics for each part of the evaluation that the run has."""
    names = modalities_of(metrics)
    places: list[tuple[str, tuple[str, ...]]] = [
        (title, (key,)) for key, title in SECTION_TITLES.items()
    ]
    by_pattern = metrics.get("by_pattern") or {}
    for key in sorted(by_pattern, key=lambda key: -(by_pattern[key].get("items") or 0)):
        places.append((f"Test items by pattern: {pattern(key, names)}", ("by_pattern", key)))
    hidden = [
        (f"“{key}” hidden from all test items", ("imposed", key))
        for key in metrics.get("imposed") or {}
    ]
    columns = [key for key in metrics["test"] if "@" in key]
    sections = []
    for title, path in (*places, *hidden):
        section = systems[0].section(path)
        if section:
            rows = [
                (metric_name(column), [system.section(path).get(column) for system in systems])
                for column in columns
            ]
            sections.append(Section(title, _sizes(section, path, metrics), rows))
    return sections


def _sizes(section: Mapping[str, Any], path: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """Return the numbers of candidates, items and customers of a section, as a sentence."""
    part = "test" if path[0] in ("by_pattern", "imposed", "test_complete") else path[0]
    texts = []
    if candidates_of(metrics, part):
        texts.append(f"{candidates_of(metrics, part):,} candidates")
    if "items" in section:
        texts.append(f"{section['items']:,} of them with this pattern")
    customers = section.get("users")
    if customers is not None:
        few = ": few, so the values are uncertain" if customers < FEW_CUSTOMERS else ""
        untrained = section.get("untrained_users")
        without = f", {untrained:,} of them without a training pair" if untrained else ""
        texts.append(f"mean over {customers:,} customers{without}{few}")
    text = "; ".join(texts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
