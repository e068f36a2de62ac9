"""Tests of the measures of the code's structure, on a made-up checkout."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.structure import comments_per_100, imports_of, levels, main, options_parameters

FILES = {
    "examples/milk_recsys/__init__.py": "",
    "examples/milk_recsys/train.py": (
        "from milk_recsys.run.loop import fit\n"
        "from milk_recsys import base\n"
        "def main(options: Options, *, other: 'Options | None' = None) -> None:\n"
        "    from milk_recsys.run import late\n"
    ),
    "examples/milk_recsys/run/loop.py": (
        "from typing import TYPE_CHECKING, Any\n"
        "if TYPE_CHECKING:\n"
        "    import milk_recsys.base\n"
        "# A reason.\n"
        "def fit(x: Any, options: RunOptions) -> None: ...  # noqa: ANN401\n"
    ),
    "examples/milk_recsys/run/late.py": "import milk_recsys.train\n",
    "examples/milk_recsys/base/__init__.py": "",
    "invmod/__init__.py": f"x = 1  # A comment.\ny = '{'z' * 200}'\n",
    "notes.txt": "12345",
}
EXAMPLE = {name: text for name, text in FILES.items() if name.startswith("examples/")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout of the files, with another file that is not tracked."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed.")
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "First"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "untracked.py").write_text("z" * 1000, encoding="utf-8")
    return tmp_path


def test_the_table_of_a_made_up_checkout(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = checkout.parent / f"{checkout.name}.md"
    assert main([str(checkout), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    header, rule, *rows = printed.splitlines()
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert (header, rule) == (f"| measure | {commit} |", "| --- | ---: |")
    assert [row[2:-2].split(" | ")[1] for row in rows] == [
        # late -> train -> run.loop -> base
        "4",
        "2",
        "2 (files: 1)",
        "200.0",
        "10.0",
        "50.0",
        "1",
        f"{sum(len(text) for text in FILES.values())}",
    ]
    written = out.read_text(encoding="utf-8")
    assert written.startswith(printed)
    assert "python -m benchmarks.structure" in written


def test_a_change_of_a_tracked_file_marks_the_column(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "notes.txt").write_text("", encoding="utf-8")
    assert main([str(checkout)]) == 0
    assert "-dirty |" in capsys.readouterr().out.splitlines()[0]


def test_a_folder_that_is_no_checkout_ends_with_status_2(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2


def test_imports_within_functions_and_of_other_packages_are_left_out() -> None:
    assert imports_of(EXAMPLE) == {
        "milk_recsys": set(),
        "milk_recsys.train": {"milk_recsys.run.loop", "milk_recsys.base"},
        "milk_recsys.run.loop": {"milk_recsys.base"},
        "milk_recsys.run.late": {"milk_recsys.train"},
        "milk_recsys.base": set(),
    }


def test_modules_in_a_circle_are_one_level() -> None:
    circle = EXAMPLE | {
        "examples/milk_recsys/base/__init__.py": "from milk_recsys.run import loop\n"
    }
    assert levels(EXAMPLE) == 4
    assert levels(circle) == 3
    assert levels({}) == 0


def test_parameters_of_other_options_are_not_counted() -> None:
    assert options_parameters("def f(a: DataOptions, b: int, c): ...") == 0
    assert options_parameters("def f(a: Options, /, *, b: list[Options]): ...") == 2


def test_directives_and_docstrings_are_not_comments() -> None:
    text = '"""# No comment."""\n# --- part ---\nx = 1  # noqa: E1\n# Why.\n'
    assert comments_per_100({"a.py": text}) == 25
