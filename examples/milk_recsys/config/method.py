"""What a method declares about itself, and where the methods are. No torch here.

A method is one `Method`, at the end of its module. The command line, the checks, a study and the report are derived
from it. `BUILT_IN` is the table of the methods that the package brings. One of your own is added by `register`, or by
an entry point of the group ``milk_recsys.methods`` in your package, and is then a choice of ``--model``.
"""

import dataclasses
import difflib
import importlib
import importlib.metadata
import math
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
"""The method that `train.py` and `Options()` take where none is named."""

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
    }
)
"""Name on the command line -> the module and the name of the `Method`, imported when it is asked for."""

ENTRY_POINTS = "milk_recsys.methods"
_REGISTERED: dict[str, "Method"] = {}


# --- the options of a method ------------------------------------------------------------------------------------------


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
        low, high: least and greatest value of a number.
        above: whether a number must be greater than `low`.
        shown: text to print in place of the default.
    """
    facts = {"help": text, "low": low, "high": high, "above": above, "shown": shown}
    return dataclasses.field(default=default, metadata=facts)


def learning_rate(default: float, text: str = "Learning rate.") -> Any:
    """Return the field of a number above 0."""
    return option(default, text, above=True)


def count(default: int, text: str) -> Any:
    """Return the field of a whole number of at least 1."""
    return option(default, text, 1)


# --- what a study may try ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[float, ...]


def interval(low: float, high: float) -> Interval:
    """Return the numbers from `low` to `high`."""
    return Interval(low, high)


def log_range(low: float, high: float) -> Interval:
    """Return the numbers from `low` to `high`, drawn evenly in their logarithm."""
    return Interval(low, high, log=True)


def choice(*values: float) -> Choice:
    """Return a choice of some values."""
    return Choice(values)


# --- the method -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """A recommender of new items, as the rest of the package needs to know it.

    Arguments:
        name: on the command line.
        title: in reports and tables.
        options: a frozen dataclass of the method's own options, whose fields are made by `option`.
        learner: "module:name" of a function ``(options, tables, world, factors)`` that returns a
            `methods.contract.Learner`.
        search_seed: seeds the method's trials in a study, with the number of the trial.
        model: "module:name" of the class that the learner builds, where it builds one.
        scorer: "module:name" of a function ``(options, dims, num_users, tensors)`` that returns the model of a finished
            run for scoring; None: its runs cannot be opened.
        check: "module:name" of a function ``(options, device, world)`` that raises where a run cannot work.
        validate: a function ``(options, num_modalities)`` that checks the method's own options with the others and,
            unless it is None, with the number of modalities; returns what is wrong, or None.
        loop: defaults of ``epochs``, ``eval_every`` and ``patience``; None: the method is fitted in closed form.
        without: common options that the method does not take.
        presets: name -> option -> value.
        precisions: values of ``--dtype`` that the method takes.
        distributed: whether it trains in several processes.
        space: option -> what a study may try.
        limits: ``epochs``, ``eval_every`` and ``patience`` in a study.
        paper: whether it is in the tables of the MILK paper.
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
    precisions: tuple[str, ...] = ("float32", "float64")
    distributed: bool = False
    space: Mapping[str, Interval | Choice] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    paper: bool = False

    @property
    def fields(self) -> Mapping[str, "dataclasses.Field[Any]"]:
        """The method's own options by name."""
        return {field.name: field for field in dataclasses.fields(self.options)}

    @property
    def needs_factors(self) -> bool:
        """Whether the method starts from frozen vectors of a matrix factorisation."""
        return "factor_lr" in self.fields

    @property
    def trains(self) -> bool:
        """Whether the method is trained by epochs; else it is fitted in closed form."""
        return self.loop is not None


def register(method: Method) -> None:
    """Add a method of one's own.

    Raises:
        ValueError: there is a method of that name.
    """
    if method.name in BUILT_IN or method.name in _REGISTERED:
        raise ValueError(
            f"register: there is a method {method.name!r} already. Choose another name."
        )
    _REGISTERED[method.name] = method


def method_names() -> tuple[str, ...]:
    """Return the names of all methods; none of them is imported."""
    return (
        *BUILT_IN,
        *_REGISTERED,
        *(point.name for point in _entry_points() if point.name not in BUILT_IN),
    )


def find_method(name: str) -> Method:
    """Return a method by its name on the command line.

    Raises:
        OptionError: there is none.
    """
    if name in BUILT_IN:
        found: Method = load(BUILT_IN[name])
        return found
    if name in _REGISTERED:
        return _REGISTERED[name]
    for point in _entry_points():
        if point.name == name:
            method = point.load()
            if not isinstance(method, Method):
                raise OptionError(
                    f"--model {name}: {point.value} must be a Method, got {type(method).__name__}."
                )
            return method
    near = difflib.get_close_matches(name, method_names(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise OptionError(
        f"--model {name}: there is no such method.{hint} Choose from {', '.join(method_names())}."
    )


def _entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    yield from importlib.metadata.entry_points(group=ENTRY_POINTS)


def load(reference: str) -> Any:
    """Import an object by "module:name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


# --- checks -----------------------------------------------------------------------------------------------------------


def flag(name: str) -> str:
    """Return the command line's name of a field: `--missing-rate` of `missing_rate`."""
    return "--" + name.replace("_", "-")


def problem_of(group: Any) -> str | None:
    """Return what is wrong with the values of a group of options, or None."""
    for field in dataclasses.fields(group):
        problem = _problem(field, getattr(group, field.name))
        if problem:
            return problem
    return None


def _problem(field: "dataclasses.Field[Any]", value: Any) -> str | None:
    kind = field.type
    if get_origin(kind) is Literal:
        if any(type(value) is type(one) and value == one for one in get_args(kind)):
            return None
        return f"{flag(field.name)} must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}."
    optional = type(None) in get_args(kind)
    if optional and value is None:
        return None
    kind = (
        next((one for one in get_args(kind) if one is not type(None)), kind) if optional else kind
    )
    if kind is bool:
        return (
            None
            if type(value) is bool
            else f"{flag(field.name)} must be true or false, got {value!r}."
        )
    if kind not in (int, float):
        return None
    return _out_of_range(field, kind, value)


def _out_of_range(field: "dataclasses.Field[Any]", kind: type, value: Any) -> str | None:
    word = "whole number" if kind is int else "number"
    if type(value) not in ((int,) if kind is int else (int, float)):
        return f"{flag(field.name)} must be a {word}, got {value!r}."
    low, high, above = (field.metadata[key] for key in ("low", "high", "above"))
    inside = (low < value if above else low <= value) and value <= high and math.isfinite(value)
    if inside:
        return None
    least = f"above {low:g}" if above else f"at least {low:g}"
    most = "" if high == math.inf else f" and at most {high:g}"
    return f"{flag(field.name)} must be finite, {least}{most}, got {value}."
