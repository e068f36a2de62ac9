"""The public interface of the library: names, docstrings and dependencies."""

import ast
import importlib
import inspect
import operator
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import invmod

ROOT = Path(invmod.__file__).parent
SUBPACKAGES = sorted(module.name for module in pkgutil.iter_modules(invmod.__path__))
FILES = sorted(ROOT.rglob("*.py"))
BOTTOM_TO_TOP = (
    "_files",
    "_tables",
    "_text",
    "_distributions",
    "_checks",
    "_precision",
    "_scale",
    "_deprecation",
    "_optional",
    "_state",
    "missingness",
    "_fitted",
    "imputation",
    "encoders",
    "environments",
    "fusion",
    "alignment",
    "penalties",
    "objectives",
    "calibration",
    "regression",
    "robustness",
    "integrations",
    "testing",
    "cli",
    "__main__",
)
# Every public name, "fuse" of the top level as well as "penalties.fishr_penalty" of a room.
ROOMS = [
    name
    for name in SUBPACKAGES
    if not name.startswith("_")
    and getattr(importlib.import_module(f"invmod.{name}"), "__all__", ())
]
NAMES = [
    *invmod.__all__,
    *(
        f"{room}.{name}"
        for room in ROOMS
        for name in importlib.import_module(f"invmod.{room}").__all__
        if name not in invmod.__all__
    ),
]
# One line per name of the top level of 0.1.0.
NAMES_OF_0_1 = set(
    (Path(__file__).parent / "names_0_1.txt").read_text(encoding="utf-8").splitlines()
)
# These modules import their framework at once, because their classes inherit from its classes.
FRAMEWORKS = {
    "sklearn": {"sklearn"},
    "transformers": {"transformers"},
}


def imports(path):
    """Full names of the modules that a file imports at import time, and those imported by calls.

    Imports under `if TYPE_CHECKING:` are excluded.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    at_once, later = [], []
    for node in ast.walk(tree):
        where = later if node in lazy else at_once
        if isinstance(node, ast.Import):
            where += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            where.append(node.module)
    return at_once, later


def module_name(path):
    return ".".join(("invmod", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


def imported_modules(path):
    """All modules of invmod that a file imports, also in functions or for type checking."""
    modules = {module_name(path) for path in FILES}
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name if name in modules else name.rpartition(".")[0] for name in names} & modules


def files_of(subpackage):
    return [
        path for path in FILES if path.relative_to(ROOT).parts[0].removesuffix(".py") == subpackage
    ]


def test_all_is_sorted_and_complete():
    assert list(invmod.__all__) == sorted(set(invmod.__all__))
    modules = {*SUBPACKAGES}
    shown = {name for name in vars(invmod) if not name.startswith("_")} - modules
    assert shown == set(invmod.__all__)


def test_the_version_is_that_of_the_project():
    """It is in invmod/__init__.py alone; between releases it is that of the next one with .dev0."""
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev0)?", invmod.__version__)
    project = ROOT.parent / "pyproject.toml"
    if project.exists():
        build = tomllib.loads(project.read_text(encoding="utf-8"))
        assert build["project"]["dynamic"] == ["version", "readme"]
        assert build["tool"]["hatch"]["version"]["path"] == "invmod/__init__.py"
        citation = (ROOT.parent / "CITATION.cff").read_text(encoding="utf-8")
        (cited,) = re.findall(r"^version: (.*)$", citation, re.MULTILINE)
        assert cited == invmod.__version__.removesuffix(".dev0")


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_docstring(name):
    thing = operator.attrgetter(name)(invmod)
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


@pytest.mark.parametrize("name", NAMES)
def test_options_are_keyword_only(name):
    """Tensors, features and names are positional arguments, options are keyword-only."""
    thing = operator.attrgetter(name)(invmod)
    routines = [thing]
    if inspect.isclass(thing):
        methods = ("sample", "fit", "linear", "mlp")
        routines = [getattr(thing, method) for method in methods if hasattr(thing, method)]
    for routine in routines:
        for parameter in inspect.signature(routine).parameters.values():
            if parameter.name in (
                "generator",
                "device",
                "dtype",
                "reduction",
                "correction",
                "loss",
                "penalty_weight",
            ) and (name, parameter.name) != ("environment_risks", "loss"):  # a function, no option
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_optional_dependencies_only_inside_functions(path):
    core = {"torch", "numpy", "einops", "typing_extensions", "invmod"} | sys.stdlib_module_names
    at_once, later = imports(path)
    framework = set()
    if "integrations" in path.relative_to(ROOT).parts[:-1]:
        part = path.relative_to(ROOT / "integrations").parts[0].removesuffix(".py")
        framework = FRAMEWORKS.get(part, set())
    assert {name.split(".")[0] for name in at_once} <= core | framework
    assert {name.split(".")[0] for name in later} <= core | {
        "matplotlib",
        "PIL",  # installed with matplotlib
        "polars",
        "jinja2",
        "safetensors",
        "narwhals",
    }


def test_no_framework_is_imported_before_its_own_module():
    code = (
        "import sys, invmod, invmod.integrations\n"
        "frameworks = {'sklearn', 'narwhals', 'lightning', 'pytorch_lightning', 'transformers'}\n"
        "assert not frameworks & sys.modules.keys(), frameworks & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_subpackage_has_a_place_in_the_import_order():
    assert sorted(BOTTOM_TO_TOP) == SUBPACKAGES


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_nothing_imports_upward(subpackage):
    """A subpackage imports only itself and those listed before it, also inside functions."""
    names = [name for path in files_of(subpackage) for part in imports(path) for name in part]
    inside = {f"{name}.".split(".")[1] for name in names if name.split(".")[0] == "invmod"}
    assert inside <= {*BOTTOM_TO_TOP[: BOTTOM_TO_TOP.index(subpackage) + 1]}


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_all_of_a_subpackage_is_sorted(subpackage):
    listed = getattr(importlib.import_module(f"invmod.{subpackage}"), "__all__", [])
    assert list(listed) == sorted(set(listed))


@pytest.mark.parametrize("name", invmod.__all__)
def test_a_name_of_the_top_level_is_also_in_its_room(name):
    thing = getattr(invmod, name)
    room = importlib.import_module(".".join(thing.__module__.split(".")[:2]))
    assert name in room.__all__
    assert getattr(room, name) is thing


def test_the_top_level_has_about_thirty_names():
    assert 25 <= len(invmod.__all__) <= 35


@pytest.mark.parametrize("room", invmod._MOVED)
def test_names_that_left_the_top_level_still_work_with_a_warning(room):
    for name in invmod._MOVED[room].split():
        with pytest.warns(DeprecationWarning, match=rf"use `invmod\.{room}\.{name}`"):
            assert getattr(invmod, name) is getattr(importlib.import_module(f"invmod.{room}"), name)


def test_the_names_of_version_0_1_are_all_there():
    """The list is that of 0.1.0, so that code written for it runs for one more release."""
    moved = {name for names in invmod._MOVED.values() for name in names.split()}
    assert not moved & set(invmod.__all__)
    assert moved | set(invmod.__all__) >= NAMES_OF_0_1


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_exposes_only_the_names_in_its_all(subpackage):
    module = importlib.import_module(f"invmod.{subpackage}")
    if not hasattr(module, "__path__"):
        return
    files = {file.name for file in pkgutil.iter_modules(module.__path__)}
    shown = {name for name in vars(module) if not name.startswith("_")} - files
    assert shown == set(module.__all__)


def test_no_two_modules_import_each_other():
    """Imports for type hints count too, so modules can be read in the order of their imports."""
    # Remove modules without unresolved imports until none is left; a cycle is never removed.
    remaining = {module_name(path): imported_modules(path) for path in FILES}
    while free := [name for name, needed in remaining.items() if not needed & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining, f"these modules import each other: {remaining}"


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_every_subpackage_has_a_docstring(subpackage):
    assert importlib.import_module(f"invmod.{subpackage}").__doc__
