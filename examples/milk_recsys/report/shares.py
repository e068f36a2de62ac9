"""Sentences and rows on the lists: popularity, coverage, exposure by pattern, one customer."""

from collections.abc import Mapping, Sequence
from typing import Any

from milk_recsys.report.findings import Findings
from milk_recsys.report.values import modalities_of, title_of
from milk_recsys.report.words import listed, pattern, percent

__all__ = ["example_sentences", "name_of", "share_findings", "share_sources", "share_tables"]

MEASURES = {
    "covered": "New items in at least one list",
    "top_tenth": "Places of the tenth of the items that is listed most",
    "popular_tenth": "Places of the tenth of the items that customers took most",
}
LITTLE = 0.5  # Fewer places than this, relative to the share of what was taken, are reported,
NOTABLE = 0.02  # if the two shares differ by at least this.


def name_of(entry: Mapping[str, Any], kind: str = "item") -> str:
    """Return the name of an item or of a customer; its id if it has no name."""
    key = "user" if kind == "customer" else kind
    return str(entry.get("name") or f"{kind} {entry[key]}")


def share_sources(metrics: Mapping[str, Any], findings: Findings) -> dict[str, str]:
    """Return source -> title of its column, for the sources that the run has."""
    untrained = (metrics.get("floor") or {}).get("model")
    titles = {
        "model": findings.name,
        "floor": title_of(untrained) if untrained else "",
        "random": "random order",
        "taken": "really taken",
    }
    known = metrics["lists"]["shares"]
    return {source: title for source, title in titles.items() if source in known}


def share_tables(
    metrics: Mapping[str, Any], sources: Mapping[str, str]
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, int, list[str]]]]:
    """Return the rows of shares, and those by pattern: label, number of items, cells."""
    lists, names = metrics["lists"], modalities_of(metrics)
    measured = [
        (
            label,
            [
                _covered(lists, source)
                if key == "covered"
                else percent(lists["shares"][source][key])
                for source in sources
            ],
        )
        for key, label in MEASURES.items()
    ]
    patterns = sorted(lists["by_pattern"].items(), key=lambda entry: -entry[1]["items"])
    by_pattern = [
        (
            pattern(key, names),
            entry["items"],
            # In a random order every item has the same share of places.
            [
                percent(
                    entry["items"] / lists["candidates"] if source == "random" else entry[source]
                )
                for source in sources
            ],
        )
        for key, entry in patterns
    ]
    return measured, by_pattern


def _covered(lists: Mapping[str, Any], source: str) -> str:
    return percent(lists["shares"][source]["covered"] / lists["candidates"])


def share_findings(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the tables say, in sentences."""
    lists = metrics["lists"]
    shares, length = lists["shares"], lists["length"]
    covered, candidates = shares["model"]["covered"], lists["candidates"]
    items = f"All {candidates:,}" if covered == candidates else f"{covered:,} of the {candidates:,}"
    sentences = [
        f"{items} new items are in at least one of the "
        f"{lists['users']:,} lists of {length} {'place' if length == 1 else 'places'}.",
        f"The tenth of the items that is listed most has {percent(shares['model']['top_tenth'])} "
        f"of all places; in a random order it has {percent(shares['random']['top_tenth'])}. The "
        f"tenth that customers took most is {percent(shares['taken']['top_tenth'])} of what they "
        "took.",
    ]
    neglected = neglected_patterns(metrics)
    sentences += [
        f"Items of the pattern “{label}” get {percent(got)} of the places, but they are "
        f"{percent(due)} of what customers took: customers rarely see them."
        for label, got, due in neglected
    ]
    if not neglected and len(lists["by_pattern"]) > 1:
        sentences.append(
            "No pattern gets less than half of the places that its share of what customers took "
            "suggests."
        )
    return sentences


def neglected_patterns(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return the patterns that are listed far less than taken: label, share of both."""
    names = modalities_of(metrics)
    return [
        (pattern(key, names), entry["model"], entry["taken"])
        for key, entry in ((metrics.get("lists") or {}).get("by_pattern") or {}).items()
        if entry["model"] < LITTLE * entry["taken"] and entry["taken"] - entry["model"] >= NOTABLE
    ]


def example_sentences(metrics: Mapping[str, Any], findings: Findings) -> Sequence[str]:
    """Return the sentences above the list of one customer."""
    lists = metrics["lists"]
    example, length = lists["example"], lists["length"]
    customer, names = name_of(example, "customer"), [name_of(item) for item in example["had"]]
    rest = example["num_had"] - len(names)
    had = listed(names) if not rest else f"{', '.join(names)} and {rest:,} more"
    hits = example["hits"]
    others = []
    if "floor" in hits:
        others.append(f"content kNN lists {hits['floor']}")
    others.append(f"a random order {hits['random']:.1f} on average")
    return (
        f"{customer[0].upper()}{customer[1:]} had {had}.",
        f"This customer also took {example['num_taken']:,} of the {lists['candidates']:,} new "
        f"items, which the model had seen with no customer. {findings.name} lists {hits['model']} "
        f"of them in {length} {'place' if length == 1 else 'places'}; {', '.join(others)}.",
        "It is the customer in the middle: about half of the customers have a better list, and "
        "about half a worse one.",
    )
