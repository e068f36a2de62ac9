"""Terms of the page: each is explained on hover and in the glossary below."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from milk_recsys.report.words import metric_name

__all__ = ["glossary", "meaning"]

TERMS: Mapping[str, str] = MappingProxyType(
    {
        "candidates": "The new items among which the items that a customer took must be found. "
        "With fewer candidates all figures are higher, those of a random order too.",
        "content kNN": "A comparison that needs no training: the new items come first whose "
        "features are most similar to those of the items that the customer had.",
        "customer": "A user of the data set.",
        "modality": "One kind of information about an item, such as its picture or its text.",
        "new item": "An item that the model has seen with no customer, only by its features.",
        "pattern": "The set of modalities that an item has.",
        "random order": "The value that a random order of the candidates reaches on average, "
        "computed by a formula. A model must be above it to be of any use.",
        "95% interval": "The range in which the value probably lies for other customers of the "
        "same kind. If the interval of a difference excludes 0, the difference is statistically "
        "significant at 5%.",
        "with gaps": "Measured after a modality was removed from some of the new items, to imitate "
        "items that arrive incomplete.",
    }
)
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "ndcg": "Quality of the order of the first {k} places, from 0 to 1 (all items that the "
        "customer took stand first). An item counts more the higher it stands.",
        "recall": "Share of the new items that a customer took that is among the first {k} places, "
        "averaged over customers.",
        "hit": "Share of the customers who took at least one item among the first {k} places.",
        "mrr": "1 / place of the first item that the customer took, 0 if it is not among the first "
        "{k} places, averaged over customers.",
    }
)


def meaning(term: str) -> str:
    """Return the explanation of a term or of a metric such as ndcg@20; empty if there is none."""
    kind, _, k = term.partition("@")
    return METRICS[kind].format(k=k) if kind in METRICS else TERMS.get(term, "")


def glossary(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the terms and metrics of a page with their explanations, in alphabetical order."""
    kinds = {key.partition("@")[0] for key in metrics["test"] if "@" in key} & METRICS.keys()
    named = {metric_name(f"{kind}@K"): meaning(f"{kind}@K") for kind in kinds}
    return sorted({**TERMS, **named}.items(), key=lambda entry: entry[0].lower())
