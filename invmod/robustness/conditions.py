"""The conditions of a report: patterns of available modalities, and missing rates."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Pattern = tuple[bool, ...]
Rates = (
    Sequence[float]
    | NDArray[Any]
    | torch.Tensor
    | Mapping[str, float]
    | Mapping[str, Mapping[str, float]]
    | Mapping[str, float | Mapping[str, float]]
)
Patterns = Literal["all", "one_missing", "one_left"] | Sequence[Collection[str]]

ALL_UP_TO = 8  # largest number of modalities with all 2^M - 1 patterns; more are sampled
SAMPLE_SIZE = 2**ALL_UP_TO - 1


def pattern_list(
    patterns: Patterns, modalities: tuple[str, ...], generator: torch.Generator | None
) -> tuple[list[Pattern], bool]:
    """Return the patterns to impose, and whether they are a random sample of all patterns.

    The complete pattern comes first, then the others by decreasing number of modalities.
    """
    m = len(modalities)
    chosen: Iterable[Pattern]
    sampled = False
    if patterns == "one_missing":
        chosen = _leaving(m, 1) if m > 1 else []
    elif patterns == "one_left":
        chosen = _leaving(m, m - 1)
    elif patterns == "all":
        sampled = m > ALL_UP_TO
        chosen = _sample(m, generator) if sampled else itertools.product((True, False), repeat=m)
    elif isinstance(patterns, str):
        raise ValueError(
            "robustness_report: `patterns` must be 'all', 'one_missing', 'one_left' or a "
            f"sequence of collections of names, got {patterns!r}."
        )
    else:
        chosen = [_named(kept, modalities) for kept in patterns]
    # The empty pattern leaves nothing to predict from; the complete one is the reference of drops.
    distinct = {pattern for pattern in chosen if any(pattern)} | {(True,) * m}
    return sorted(distinct, key=lambda pattern: (sum(pattern), pattern), reverse=True), sampled


def _leaving(m: int, missing: int) -> list[Pattern]:
    """Return all patterns of m modalities in which `missing` modalities are missing."""
    return [
        tuple(position not in hidden for position in range(m))
        for hidden in itertools.combinations(range(m), missing)
    ]


def suggested_names(text: object, modalities: tuple[str, ...]) -> str:
    """Return the tuple to write for a pattern that was given as text or as another object.

    Example:
        >>> names = ("text", "image")
        >>> [suggested_names(given, names) for given in ("image", "image+text", "sound")]
        ["('image',)", "('image', 'text')", "a tuple of names such as ('text', 'image')"]
    """
    if isinstance(text, str):
        parts = (text,) if text in modalities else tuple(text.split("+"))
        if all(part in modalities for part in parts):
            return repr(parts)
    return f"a tuple of names such as {modalities[:2]!r}"


def _named(kept: Collection[str], modalities: tuple[str, ...]) -> Pattern:
    if isinstance(kept, str):
        raise TypeError(
            "robustness_report: each of `patterns` must be a collection of names, got the string "
            f"{kept!r}. Write {suggested_names(kept, modalities)}."
        )
    unknown = [name for name in kept if name not in modalities]
    if unknown:
        raise ValueError(
            f"robustness_report: `patterns` names {unknown}, which are not among "
            f"{list(modalities)}."
        )
    if not kept:
        raise ValueError("robustness_report: each of `patterns` must leave at least one modality.")
    return tuple(name in kept for name in modalities)


def _sample(m: int, generator: torch.Generator | None) -> set[Pattern]:
    """Return a sample of at least `SAMPLE_SIZE` patterns of m modalities.

    It contains the complete pattern, all patterns with one modality missing or one left, and random
    patterns. A random pattern has a uniformly drawn number of modalities and then a uniformly drawn
    subset of that size, so that every number of missing modalities occurs.
    """
    drawn: set[Pattern] = {(True,) * m, *_leaving(m, 1), *_leaving(m, m - 1)}
    device = "cpu" if generator is None else generator.device
    while len(drawn) < max(SAMPLE_SIZE, 2 * m + 1):
        kept = int(torch.randint(1, m + 1, (), generator=generator, device=device))
        order = torch.randperm(m, generator=generator, device=device).tolist()
        drawn.add(tuple(position in order[:kept] for position in range(m)))
    return drawn


def checked_rates(
    rates: Rates, modalities: tuple[str, ...]
) -> tuple[list[float], dict[str, tuple[float, ...]]]:
    """Return the missing rates of the curves, ascending, and profile -> M rates.

    A sequence, array or tensor has the rates of the curves. A mapping has profiles instead: name ->
    one rate of all modalities, or modality -> rate. A modality without a rate keeps its cells.
    """
    if isinstance(rates, Mapping):
        return [], {
            _profile_name(name): _profile(name, given, modalities) for name, given in rates.items()
        }
    if isinstance(rates, (torch.Tensor, np.ndarray)):
        rates = rates.reshape(-1).tolist()
    if isinstance(rates, str) or not isinstance(rates, Iterable):
        raise TypeError(
            "robustness_report: `rates` must be a sequence of numbers, or profile -> {modality: "
            f"rate}}, got {rates!r}."
        )
    return sorted({_rate("rates", rate) for rate in rates}), {}


def _profile_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(
            f"robustness_report: the names of profiles in `rates` must be strings, got {name!r}."
        )
    return name


def _profile(
    name: str, given: float | Mapping[str, float], modalities: tuple[str, ...]
) -> tuple[float, ...]:
    """Return the M rates of a profile."""
    where = f"rates[{name!r}]"
    if not isinstance(given, Mapping):
        return (_rate(where, given),) * len(modalities)
    unknown = [modality for modality in given if modality not in modalities]
    if unknown:
        raise KeyError(
            f"robustness_report: `{where}` names {unknown}, which are not among {list(modalities)}."
        )
    return tuple(
        _rate(f"{where}[{modality!r}]", given.get(modality, 0.0)) for modality in modalities
    )


def _rate(where: str, rate: object) -> float:
    """Return a rate as a float after checking its type and range."""
    try:
        value = float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"robustness_report: `{where}` must be a number, got {rate!r}.") from error
    if isinstance(rate, (bool, str)):
        raise TypeError(f"robustness_report: `{where}` must be a number, got {rate!r}.")
    # The negation also refuses NaN.
    if not 0 <= value < 1:
        raise ValueError(
            f"robustness_report: `{where}` must lie in [0, 1), got {value}. To hide a modality in "
            "all rows, use `patterns`."
        )
    return value
