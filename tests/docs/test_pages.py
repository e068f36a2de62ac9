"""The pages name what exists: every public name is documented once, and files, options and targets are there."""

import dataclasses
import re
from pathlib import Path

import pytest
from milk_recsys import options

import invmod

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def test_the_api_page_documents_every_public_name_once() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:function|class):: invmod\.(\w+)$", page, re.MULTILINE)
    assert sorted(documented) == sorted(invmod.__all__)


def test_every_public_name_has_a_docstring_with_an_example_or_fields() -> None:
    for name in invmod.__all__:
        assert (getattr(invmod, name).__doc__ or "").strip(), name


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = {line.strip() for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    assert listed == {page.stem for page in PAGES} - {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_library_in_a_page_exist(page: Path) -> None:
    named = re.findall(r"\binvmod\.(\w+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not hasattr(invmod, name) and name not in ("svg", "css")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))) <= targets


def test_the_example_page_lists_every_option_of_train_py() -> None:
    page = (DOCS / "milk.md").read_text(encoding="utf-8")
    flags = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(options.Options)}
    rows = {flag for row in re.findall(r"^\| `(--.*?)\|", page, re.MULTILINE) for flag in re.findall(r"--[a-z-]+", row)}
    assert rows == flags
