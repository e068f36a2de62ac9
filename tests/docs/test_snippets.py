"""Every Python snippet of the pages and of the README runs, in the order of its page.

A block marked ``python`` is executed; a block marked ``pycon`` is a doctest. All blocks of a page
share one namespace. A block that begins with the comment ``# models.py`` is also written to that
file, which later blocks can import.
"""

import doctest
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from milk_recsys.config import method as methods

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(
        {*ROOT.glob("docs/*.md"), *ROOT.glob("docs/parts/*.md"), *ROOT.glob("docs/examples/*.md")}
    ),
]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Find the snippets of a page: kind, code, and number of the line where the code begins."""
    text = page.read_text(encoding="utf-8")
    return [(kind, code, text.count("\n", 0, at) + 2) for kind, code, at in _matches(text)]


def _matches(text: str) -> list[tuple[str, str, int]]:
    return [(match[1], match[2], match.start()) for match in BLOCK.finditer(text)]


def run_block(kind: str, code: str, line: int, page: Path, names: dict[str, Any]) -> None:
    if kind == "python":
        # Newlines before the code make tracebacks show the line numbers of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line - 1)
    test.globs = names  # the dictionary itself and not a copy, so that later blocks share it
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    results = runner.run(test, out=output.append, clear_globs=False)
    assert not results.failed, "".join(output)


# Warnings of other libraries about themselves, on the pages that call them.
MARKS = {
    "export.md": [
        # The export to ONNX in torch 2.13 warns about torch's own trees.
        pytest.mark.filterwarnings("ignore:.*treespec.*is deprecated:FutureWarning")
    ],
    "integrations.md": [
        # Lightning recommends worker processes, which a small batch in memory does not need.
        pytest.mark.filterwarnings("ignore:.*does not have many workers"),
        # Lightning 2.6 calls a part of torch's pytrees that torch 2.13 deprecates.
        pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    ],
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=MARKS.get(page.name, ()), id=page.name)
        for page in PAGES
        if blocks(page)
    ],
)
def test_the_snippets_of_a_page_run_in_order(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(methods, "_REGISTERED", {})  # Pages may register methods of their own.
    # The page is the main module, so that "__main__:Name" finds what its snippets define.
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    names = vars(main)
    with torch.random.fork_rng():
        for kind, code, line in blocks(page):
            if file := re.match(r"# (\w+)\.py\n", code):
                monkeypatch.delitem(sys.modules, file[1], raising=False)
                (tmp_path / f"{file[1]}.py").write_text(code, encoding="utf-8")
            run_block(kind, code, line, page, names)
    if page.name == "milk.md":
        check_files_of_a_run(
            page.read_text(encoding="utf-8"), names["metrics"], tmp_path / "runs/first"
        )


def test_files_that_the_architecture_page_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:invmod|examples|tests|docs)/[\w/.]+)`", page))
    assert len(named) >= 15
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing == {"examples/milk_recsys/methods/centroid/"}  # the method that the page adds


def check_files_of_a_run(page: str, metrics: dict[str, Any], folder: Path) -> None:
    """Compare the tables of the page with the run that its snippets trained.

    They list the files of the run and the keys of metrics.json.
    """
    files = _first_column(page, "| file in `--out` | what |")
    # This run does not write users.tsv, items.tsv and compare/, which the page lists too.
    others = {"users.tsv", "items.tsv", "compare/"}
    assert {path.name for path in folder.iterdir()} | others == files
    keys = _first_column(page, "| key | what |")
    assert keys == set(metrics)
    figures = set(
        re.findall(r"`(\w+@\d+)`", page[page.index("Every block of numbers") :].split("\n\n")[0])
    )
    assert figures | {"users", "untrained_users"} == set(metrics["test"])


def _first_column(page: str, header: str) -> set[str]:
    table = page[page.index(header) :].split("\n\n")[0]
    return {
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }


def test_a_wrong_output_fails() -> None:
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run_block("pycon", ">>> 1 + 1\n3\n", 1, Path("page.md"), {})


def test_no_snippet_has_a_mark_that_these_tests_do_not_run() -> None:
    for page in PAGES:
        marks = set(
            re.findall(
                r"^\s*(?:```|~~~|:::)\s*\{?(\w[\w:-]*)",
                page.read_text(encoding="utf-8"),
                re.MULTILINE,
            )
        )
        assert not marks & {
            "py",
            "python3",
            "ipython",
            "code-block",
            "code",
            "doctest",
            "testcode",
        }, page.name
