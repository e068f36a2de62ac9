"""The page of the benchmark can be followed word by word: its commands print what it shows."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from milk_recsys.study.bench.fit_inputs import Inputs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
COMMAND = [sys.executable, "-m", "milk_recsys"]


def section(title):
    """Return the text of a section."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def follow(text, folder):
    """Save the program of the page and run the commands of a text, as its reader would.

    Returns:
        The output of the commands, in the form of the text: "$ ", the command, and its output.
    """
    program = re.search(r"```python\n(# my_method\.py\n.*?)```", PAGE, re.DOTALL)[1]
    (folder / "my_method.py").write_text(program, encoding="utf-8")
    if not (folder / "docs").exists():
        (folder / "docs").symlink_to(ROOT / "docs")
    printed = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            printed.append(f"$ {line}\n" + run(line, folder))
    return printed


def run(line, folder):
    name, *words = shlex.split(line)
    words = {"milk-recsys": COMMAND, "python": [sys.executable]}[name] + words
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_rehearsal_prints_what_the_page_shows(tmp_path):
    text = section("A rehearsal without data")
    printed = follow(text, tmp_path)
    assert len(printed) == 4
    for output in printed:
        assert output in text
    # The function of the page that recomputes a hash.
    code = re.search(r"```python\nimport hashlib\n(.*?)```", PAGE, re.DOTALL)[1]
    names = {"hashlib": hashlib, "pl": __import__("polars"), "np": __import__("numpy")}
    exec(code, names)
    stated = re.search(r'"split": "(\w+)"', (tmp_path / "tasks/tiny/ftmt/2/task.json").read_text())
    assert names["split_hash"](tmp_path / "tasks/tiny/ftmt/2") == stated[1]


@pytest.mark.data
@pytest.mark.slow
def test_the_entry_prints_what_the_page_shows(tmp_path, data_root):
    assert data_root.is_dir()
    text = section("The entry")
    export, lists, score, audit = follow(text, tmp_path)
    assert len(export.splitlines()) == 12
    assert lists == "$ python my_method.py tasks/lfm2k/ftmt\n"
    assert score in text
    assert audit in text


def test_the_page_lists_every_argument_of_the_audit():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)?) \| ", section("The audit"), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert listed == list(Inputs.__dataclass_fields__)


def test_the_page_lists_every_subcommand():
    listed = re.findall(r"^\| `bench (\w+)` \|", PAGE, re.MULTILINE)
    helped = subprocess.run(
        [*COMMAND, "bench", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert listed == ["tasks", "export", "score", "audit", "standings"]
    assert "{" + ",".join(listed) + "}" in helped
