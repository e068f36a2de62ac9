"""What the library shows to the outside: names, docstrings, and what it stands on."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import invmod

ROOT = Path(invmod.__file__).parent
ROOMS = sorted(module.name for module in pkgutil.iter_modules(invmod.__path__))
BELOW = {
    "missingness": set(),
    "environments": set(),
    "penalties": set(),
    "imputation": {"missingness"},
    "encoders": {"missingness"},
    "fusion": {"missingness"},
    "alignment": {"missingness"},
    "objectives": {"penalties"},
}


def imports(room):
    """Full names of the modules that a room imports."""
    tree = ast.parse((ROOT / f"{room}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module


def test_all_is_sorted_and_complete():
    assert list(invmod.__all__) == sorted(set(invmod.__all__))
    modules = {*ROOMS}
    shown = {name for name in vars(invmod) if not name.startswith("_")} - modules
    assert shown == set(invmod.__all__)


def test_the_version_is_that_of_the_project():
    assert re.fullmatch(r"\d+\.\d+\.\d+", invmod.__version__)
    project = ROOT.parent / "pyproject.toml"
    if project.exists():
        assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] == invmod.__version__


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()


@pytest.mark.parametrize("name", invmod.__all__)
def test_every_public_name_has_a_docstring(name):
    thing = getattr(invmod, name)
    assert thing.__module__.startswith("invmod.")
    text = inspect.getdoc(thing)
    assert text
    first, *rest = text.splitlines()
    assert first.endswith(".")
    assert not rest or rest[0] == ""
    assert "Example:\n" in text
    assert ">>> " in text
    methods = inspect.getmembers(thing, lambda m: inspect.isfunction(m) or inspect.ismethod(m))
    for method, function in methods if inspect.isclass(thing) else ():
        if not method.startswith("_") and function.__module__.startswith("invmod"):
            assert inspect.getdoc(function), f"{name}.{method} has no docstring"


@pytest.mark.parametrize("name", invmod.__all__)
def test_options_are_keyword_only(name):
    """Tensors, features and names by position; what tunes a function by keyword."""
    thing = getattr(invmod, name)
    routines = [thing]
    if inspect.isclass(thing):
        methods = ("sample", "fit", "linear", "mlp")
        routines = [getattr(thing, method) for method in methods if hasattr(thing, method)]
    for routine in routines:
        for parameter in inspect.signature(routine).parameters.values():
            if parameter.name in ("generator", "device", "dtype", "reduction", "correction", "loss", "penalty_weight"):
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("room", ["__init__", *ROOMS])
def test_a_room_imports_nothing_but_the_core_dependencies(room):
    for name in imports(room):
        top = name.split(".")[0]
        assert top in {"torch", "numpy", "einops", "typing_extensions", "invmod"} | sys.stdlib_module_names, name


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_imports_upward(room):
    """The rooms named here stand on those below them alone; a new room gets its own line."""
    inside = {name.removeprefix("invmod.") for name in imports(room) if name.split(".")[0] == "invmod"}
    assert inside <= BELOW[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room):
    assert importlib.import_module(f"invmod.{room}").__doc__
