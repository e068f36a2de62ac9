"""Numbers, names of metrics and patterns of modalities as text."""

import math
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["breakable", "finite", "listed", "metric_name", "number", "pattern", "percent"]


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for all else, such as null or NaN."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def number(value: Any, digits: int = 4, *, plus: bool = False) -> str:
    """Return a number as text (with a plus sign if `plus`); an en dash if it is not finite."""
    from invmod.robustness.numbers import true_minus  # `invmod` imports torch: see page.py.

    known = finite(value)
    # 0 is added to write minus zero as zero.
    return "–" if known is None else true_minus(f"{known + 0.0:{'+' if plus else ''}.{digits}f}")


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    from invmod.robustness import numbers  # `invmod` imports torch: see page.py.

    return numbers.true_minus(numbers.percent(share))


def metric_name(metric: str) -> str:
    """Return the name of a metric in prose: NDCG@20, Recall@10, hit rate@10 or MRR@20."""
    kind, _, k = metric.partition("@")
    return {"ndcg": "NDCG", "recall": "Recall", "hit": "hit rate", "mrr": "MRR"}.get(
        kind, kind
    ) + f"@{k}"


def pattern(key: str, modalities: Sequence[str]) -> str:
    """Describe a pattern by its available or by its missing modalities, whichever are fewer.

    Arguments:
        key: the available modalities joined by "+", or "none".
        modalities: names of all modalities, in the order in which a key joins them.

    Example:
        >>> names = ("text", "image", "audio")
        >>> [pattern(key, names) for key in ("text+image+audio", "text+audio", "audio", "none")]
        ['all modalities', 'without image', 'only audio', 'no modality']
    """
    # A name may contain "+", so the names are removed from the front one by one instead of
    # splitting the key.
    rest, missing = f"{key}+", []
    for modality in modalities:
        if rest.startswith(f"{modality}+"):
            rest = rest[len(modality) + 1 :]
        else:
            missing.append(modality)
    if rest == "none+" and len(missing) == len(modalities):
        return "no modality"
    if rest:
        return key
    if not missing:
        return "all modalities"
    if len(missing) < len(modalities) - 1 or len(modalities) == 2:
        return f"without {listed(missing)}"
    return f"only {key}"


def breakable(text: str, longest: int = 14) -> list[str]:
    """Return the parts of a text between which a line may break within a word.

    A line may break after the signs that join the parts of a name, and within parts that are
    longer than `longest`. Spaces are no ends of parts: a line breaks there anyway.

    Example:
        >>> breakable("clip_image-features.of.the_shop")
        ['clip_', 'image-', 'features.', 'of.', 'the_', 'shop']
    """
    parts = re.findall(r"[^_\-./+:|]*[_\-./+:|]|[^_\-./+:|]+$", text)
    return [piece for part in parts for piece in re.findall(rf"(?:\S{{1,{longest}}}|\s+)", part)]


def listed(words: Sequence[str]) -> str:
    """Join words with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
