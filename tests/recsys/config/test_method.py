"""Methods of other packages: what is wrong with one is said in a line, and options keep checks."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from milk_recsys.base.errors import OptionError
from milk_recsys.config import method as module
from milk_recsys.config.command_line import parse_options
from milk_recsys.config.method import Method, count, find_method, option, register
from milk_recsys.config.options import Options, validate

if TYPE_CHECKING:
    from decimal import Decimal


# The types of these fields are text, because of the `__future__` import above.
@dataclasses.dataclass(frozen=True)
class OwnOptions:
    """Options of a method of one's own."""

    dim: int = count(8, "Width of the vectors.")
    kind: Literal["flat", "deep"] = option("flat", "Kind of the model.")
    share: float = option(0.5, "Share of the items.", high=1)


@dataclasses.dataclass(frozen=True)
class UnresolvedOptions:
    """A type that is imported for type checkers only."""

    price: Decimal = option(0, "Price.")  # noqa: RUF009


def own_method(name="own", options=OwnOptions):
    return Method(name=name, title="Own", options=options, learner="x:y", search_seed=101)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(module, "_REGISTERED", {})
    register(own_method())


def test_options_whose_types_are_text_are_parsed(registered):
    options = parse_options(["--model", "own", "--dim", "3", "--kind", "deep"])
    assert (options.method.dim, options.method.kind, options.method.share) == (3, "deep", 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 0}, "--dim must be at least 1, got 0."),
        ({"dim": 1.5}, "--dim must be a whole number, got 1.5."),
        ({"share": 2.0}, "--share must be finite, at least 0 and at most 1, got 2.0."),
        ({"kind": "wide"}, "--kind must be one of flat, deep, got 'wide'."),
    ],
)
def test_options_whose_types_are_text_are_checked(registered, values, message):
    with pytest.raises(OptionError) as error:
        validate(Options.of("own", **values))
    assert str(error.value) == message


def test_a_method_with_unusable_options_is_refused():
    with pytest.raises(TypeError, match=r"a type in UnresolvedOptions cannot be resolved.*Decimal"):
        own_method(options=UnresolvedOptions)
    with pytest.raises(TypeError, match="`options` must be a dataclass"):
        own_method(options=dict)


OWN = own_method()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bad", "no_such_module_at_all:X", r"cannot be loaded \(ModuleNotFoundError"),
        ("bad", f"{__name__}:MISSING", r"cannot be loaded \(AttributeError"),
        ("bad", f"{__name__}:OwnOptions", "must be a Method, got type"),
        ("bad", f"{__name__}:OWN", "must have the name of its method, 'own'"),
    ],
)
def test_a_faulty_entry_point_is_named(monkeypatch, name, value, message):
    point = EntryPoint(name, value, module.ENTRY_POINTS)
    monkeypatch.setattr(module, "_entry_points", lambda: iter([point]))
    with pytest.raises(OptionError, match=message) as error:
        find_method(name)
    assert f"--model {name}: the entry point {value}" in str(error.value)
    assert find_method("knn").name == "knn"


def test_paths_may_be_text():
    options = Options.of("keep", data="shop", out="runs/first")
    assert (options.data.folder, options.run.out) == (Path("shop"), Path("runs/first"))
