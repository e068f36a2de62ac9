"""The subpackages ("rooms") of `milk_recsys` import only from the levels below them."""

import ast
from pathlib import Path

import pytest

import milk_recsys

ROOT = Path(milk_recsys.__file__).parent
ROOMS = (
    *("base", "config", "catalogue", "ranking", "methods", "run", "estimator", "exporting"),
    *("serving", "report", "study"),
)
"""Subpackages from the bottom to the top. Above them are the package's own files, the commands."""
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def level(parts):
    """Return the level of a module, given its path within the package."""
    return ROOMS.index(parts[0]) if parts[0] in ROOMS else len(ROOMS)


def imported(source):
    """Return all names that a module imports, also within functions and for type checkers."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.split(".") for name in names]


def upward(file, source):
    here = level(Path(file).parts)
    return [
        ".".join(parts)
        for parts in imported(source)
        if parts[0] == "milk_recsys" and (len(parts) == 1 or level(parts[1:]) > here)
    ]


def test_every_folder_is_a_room():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    # Every folder with modules has an __init__.py.
    assert {path.parent.name for path in ROOT.glob("*/*.py")} == folders


@pytest.mark.parametrize("file", [file for file in FILES if "/" in file])
def test_a_room_imports_from_itself_and_from_rooms_below(file):
    assert upward(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", FILES)
def test_no_file_imports_tests_or_another_example(file):
    others = {"tests", "benchmarks", *(path.stem for path in ROOT.parent.iterdir())} - {
        "milk_recsys"
    }
    assert not others & {parts[0] for parts in imported((ROOT / file).read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("base/files.py", "from milk_recsys.config.options import Options"),
        ("run/loop.py", "def later():\n    import milk_recsys.report.page"),
        ("methods/keep.py", "if TYPE_CHECKING:\n    from milk_recsys.run import loop"),
        ("methods/milk/model.py", "from milk_recsys import study"),
        ("study/runs.py", "from milk_recsys.train import run"),
        ("ranking/top.py", "from milk_recsys import load_run"),
        ("ranking/top.py", "import milk_recsys"),
    ],
)
def test_an_import_upwards_is_detected(file, source):
    assert len(upward(file, source)) == 1
