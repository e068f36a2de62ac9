"""Descriptions of the methods, and the table of all methods. This module does not import torch.

The module of each method ends with its description, a `Method`. The command line, the checks, the
study and the report are derived from these descriptions. `BUILT_IN` lists the methods of the
package. To add your own method as a choice of ``--model``, call `register`, or declare an entry
point in the group ``milk_recsys.methods`` of your package.
"""

import dataclasses
import difflib
import importlib
import importlib.metadata
import math
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from milk_recsys.base.errors import OptionError

__all__ = [
    "BUILT_IN",
    "DEFAULT_METHOD",
    "Choice",
    "Interval",
    "Method",
    "choice",
    "count",
    "find_method",
    "flag",
    "interval",
    "learning_rate",
    "load",
    "log_range",
    "method_names",
    "option",
    "problem_of",
    "register",
]

DEFAULT_METHOD = "keep"
"""The method that `train.py` and `Options()` use by default."""

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "keep": "milk_recsys.methods.keep:KEEP",
        "milk": "milk_recsys.methods.milk:MILK",
        "align": "milk_recsys.methods.milk:ALIGN",
        "envs": "milk_recsys.methods.milk:ENVS",
        "erm": "milk_recsys.methods.milk:ERM",
        "duif": "milk_recsys.methods.duif:DUIF",
        "micro": "milk_recsys.methods.micro:MICRO",
        "dropoutnet": "milk_recsys.methods.dropoutnet:DROPOUTNET",
        "mtpr": "milk_recsys.methods.mtpr:MTPR",
        "heater": "milk_recsys.methods.heater:HEATER",
        "clcrec": "milk_recsys.methods.clcrec:CLCREC",
        "ccfcrec": "milk_recsys.methods.ccfcrec:CCFCREC",
        "gar": "milk_recsys.methods.gar:GAR",
        "gorec": "milk_recsys.methods.gorec:GOREC",
        "content_knn": "milk_recsys.methods.content_knn:CONTENT_KNN",
        "random": "milk_recsys.methods.random_order:RANDOM",
        "knn": "milk_recsys.methods.knn:KNN",
        "marec": "milk_recsys.methods.marec:MAREC",
        "ridge": "milk_recsys.methods.ridge:RIDGE",
        "sibrar": "milk_recsys.methods.sibrar:SIBRAR",
        "i3mrec": "milk_recsys.methods.i3mrec:I3MREC",
        "dgmrec": "milk_recsys.methods.dgmrec:DGMREC",
        "aldi": "milk_recsys.methods.aldi:ALDI",
        "fease": "milk_recsys.methods.fease:FEASE",
        "fease_u": "milk_recsys.methods.fease:FEASE_U",
        "linmap": "milk_recsys.methods.linmap:LINMAP",
        "graph_imputation": "milk_recsys.methods.graph_imputation:GRAPH_IMPUTATION",
    }
)
"""Name on the command line -> "module:name" of the `Method`, which is imported on demand."""

ENTRY_POINTS = "milk_recsys.methods"
_REGISTERED: dict[str, "Method"] = {}


# --- the options of a method ----------------------------------------------------------------------


MAX_WHOLE = 2**31 - 1
"""Largest whole number of an option without a limit of its own; libraries count in 32 bits."""


def option(
    default: Any,
    text: str,
    low: float = 0,
    high: float = math.inf,
    *,
    above: bool = False,
    shown: str | None = None,
) -> Any:
    """Return a dataclass field with its help text and its range.

    Arguments:
        text: help text.
        low, high: smallest and largest value of a number.
        above: whether a number must be greater than `low`, not equal to it.
        shown: text that the help shows instead of the default.
    """
    facts = {"help": text, "low": low, "high": high, "above": above, "shown": shown}
    return dataclasses.field(default=default, metadata=facts)


def learning_rate(default: float, text: str = "Learning rate.") -> Any:
    """Return the field of a number above 0."""
    return option(default, text, above=True)


def count(default: int, text: str) -> Any:
    """Return the field of a whole number of at least 1."""
    return option(default, text, 1)


# --- search spaces of a study ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, drawn uniformly, or uniformly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a finite number of values."""

    values: tuple[float | str, ...]


def interval(low: float, high: float) -> Interval:
    """Return the numbers from `low` to `high`, drawn uniformly."""
    return Interval(low, high)


def log_range(low: float, high: float) -> Interval:
    """Return the numbers from `low` to `high`, drawn uniformly on a logarithmic scale."""
    return Interval(low, high, log=True)


def choice(*values: float | str) -> Choice:
    """Return a choice among the given values."""
    return Choice(values)


# --- the method -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """Description of a method that recommends new items.

    Arguments:
        name: name on the command line.
        title: name in reports and tables.
        options: frozen dataclass of the method's own options; `option` creates its fields.
        learner: "module:name" of a function ``(options, tables, world, factors)`` that returns a
            `methods.contract.Learner`.
        search_seed: seed of the method's trials in a study, combined with the number of the trial.
        model: "module:name" of the class that the learner builds, or None.
        scorer: "module:name" of a function ``(options, dims, num_users, tensors)`` that returns the
            model of a finished run for scoring. None: runs of this method cannot be loaded.
        check: "module:name" of a function ``(options, device, world)`` that raises an error if a
            run is impossible on this device or with this number of processes.
        validate: function ``(options, num_modalities)`` that checks the method's own options
            against the other options and against the number of modalities, which is None before the
            data are read. It returns an error message, or None.
        loop: defaults of ``epochs``, ``eval_every`` and ``patience``. None: the method is fitted in
            closed form, without epochs.
        without: names of common options that the method does not have.
        presets: name -> option -> value; the first is the default of ``--preset``.
        compare: default of ``--compare`` on the embedded data, "erm" or "none".
        independent_scores: whether the score of an item is independent of the other candidates.
        precisions: supported values of ``--dtype``.
        distributed: whether the method can be trained in several processes.
        space: option -> search space in a study.
        limits: ``epochs``, ``eval_every`` and ``patience`` in a study.
        paper: whether the method is in the tables of the MILK paper.
        summary: how it ranks new items, a sentence for readers of a report who know no method.
    """

    name: str
    title: str
    options: type[Any]
    learner: str
    search_seed: int
    model: str | None = None
    scorer: str | None = None
    check: str | None = None
    validate: Callable[[Any, int | None], str | None] | None = None
    loop: Mapping[str, int] | None = None
    without: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    compare: Literal["erm", "none"] = "erm"
    independent_scores: bool = True
    precisions: tuple[str, ...] = ("float32", "float64")
    distributed: bool = False
    space: Mapping[str, Interval | Choice] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    paper: bool = False
    summary: str = "It scores a new item by its features and by what each customer took before."

    def __post_init__(self) -> None:
        """Resolve the types of the options that ``from __future__ import annotations`` made text.

        Raises:
            TypeError: `options` is not a dataclass, or a type cannot be resolved.
        """
        if not (isinstance(self.options, type) and dataclasses.is_dataclass(self.options)):
            raise TypeError(f"Method {self.name!r}: `options` must be a dataclass.")
        if all(not isinstance(field.type, str) for field in self.fields.values()):
            return
        try:
            hints = typing.get_type_hints(self.options)
        except NameError as error:
            raise TypeError(
                f"Method {self.name!r}: a type in {self.options.__name__} cannot be resolved "
                f"({error}). Import it at the top of the module."
            ) from None
        for field in self.fields.values():
            field.type = hints[field.name]

    @property
    def fields(self) -> Mapping[str, "dataclasses.Field[Any]"]:
        """The method's own options by name."""
        return {field.name: field for field in dataclasses.fields(self.options)}

    @property
    def needs_factors(self) -> bool:
        """Whether the method needs the fixed user and item vectors of a matrix factorisation."""
        return "factor_lr" in self.fields

    @property
    def trains(self) -> bool:
        """Whether the method is trained in epochs, rather than fitted in closed form."""
        return self.loop is not None


def register(method: Method) -> None:
    """Add a method.

    Raises:
        ValueError: there is already a method with this name.
    """
    if method.name in BUILT_IN or method.name in _REGISTERED:
        raise ValueError(
            f"register: there is already a method {method.name!r}. Choose another name."
        )
    _REGISTERED[method.name] = method


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, without importing them."""
    return (
        *BUILT_IN,
        *_REGISTERED,
        *(point.name for point in _entry_points() if point.name not in BUILT_IN),
    )


def find_method(name: str) -> Method:
    """Return a method by its name on the command line.

    Raises:
        OptionError: there is no method with this name, or its entry point cannot be loaded.
    """
    # Built-in methods come first, so that an entry point of another package cannot replace them.
    if name in BUILT_IN:
        built_in: Method = load(BUILT_IN[name])
        return built_in
    if name in _REGISTERED:
        return _REGISTERED[name]
    for point in _entry_points():
        if point.name == name:
            return _load_entry_point(point)
    near = difflib.get_close_matches(name, method_names(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise OptionError(
        f"--model {name}: there is no such method.{hint} Choose from {', '.join(method_names())}."
    )


def _load_entry_point(point: importlib.metadata.EntryPoint) -> Method:
    package = point.dist.name if point.dist else "an unknown package"
    where = f"--model {point.name}: the entry point {point.value} of {package}"
    try:
        method = point.load()
    except Exception as error:
        raise OptionError(
            f"{where} cannot be loaded ({type(error).__name__}: {error}). Mend or uninstall the "
            "package."
        ) from error
    if not isinstance(method, Method):
        raise OptionError(f"{where} must be a Method, got {type(method).__name__}.")
    if method.name != point.name:
        raise OptionError(f"{where} must have the name of its method, {method.name!r}.")
    return method


def _entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    yield from importlib.metadata.entry_points(group=ENTRY_POINTS)


def load(reference: str) -> Any:
    """Import and return the object "module:name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


# --- checks ---------------------------------------------------------------------------------------


def flag(name: str) -> str:
    """Return the name of a field on the command line: `--missing-rate` for `missing_rate`."""
    return "--" + name.replace("_", "-")


def problem_of(group: Any) -> str | None:
    """Return an error message on the first invalid value in a group of options, or None."""
    for field in dataclasses.fields(group):
        problem = _problem(field, getattr(group, field.name))
        if problem:
            return problem
    return None


def _problem(field: "dataclasses.Field[Any]", value: Any) -> str | None:
    kind = field.type
    if get_origin(kind) is Literal:
        # The types are compared too, because True == 1 in Python.
        if any(type(value) is type(allowed) and value == allowed for allowed in get_args(kind)):
            return None
        return (
            f"{flag(field.name)} must be one of {', '.join(map(str, get_args(kind)))}, "
            f"got {value!r}."
        )
    if type(None) in get_args(kind):
        if value is None:
            return None
        kind = next((part for part in get_args(kind) if part is not type(None)), kind)
    if kind is bool:
        if type(value) is bool:
            return None
        return f"{flag(field.name)} must be true or false, got {value!r}."
    if kind not in (int, float):
        return None
    return _out_of_range(field, kind, value)


def _out_of_range(field: "dataclasses.Field[Any]", kind: type, value: Any) -> str | None:
    word = "whole number" if kind is int else "number"
    if type(value) not in ((int,) if kind is int else (int, float)):
        return f"{flag(field.name)} must be a {word}, got {value!r}."
    low, high, above = (field.metadata[key] for key in ("low", "high", "above"))
    if kind is int and high == math.inf and value > MAX_WHOLE:
        high = MAX_WHOLE
    finite = abs(value) <= sys.float_info.max  # Also for whole numbers that no float can hold.
    inside = (low < value if above else low <= value) and value <= high and finite
    if inside:
        return None
    lower = f"above {low:g}" if above else f"at least {low:g}"
    upper = "" if high == math.inf else f" and at most {high if kind is int else format(high, 'g')}"
    # Every whole number is finite.
    word = "" if kind is int else "finite, "
    return f"{flag(field.name)} must be {word}{lower}{upper}, got {value}."
