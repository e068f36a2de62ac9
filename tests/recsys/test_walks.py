"""Walks from raw files to lists of new items: the scripts of examples/walks, on small files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest

from milk_recsys import train
from milk_recsys.__main__ import main
from tests.fuzz.raw_files import write_raw

WALKS = Path(__file__).parents[2] / "examples/walks"
SCRIPTS = sorted(path.stem for path in WALKS.glob("*.sh"))
# Walk -> its raw files among the cases. The others have small files of the tests only.
CASES = {
    name: name if name != "amazon" else "amazon2023"
    for name in SCRIPTS
    if name not in ("arrays", "json")
}


def words_of(line: str, places: dict[str, str]) -> list[str]:
    """Return the words of a line of a script, as a shell does for the syntax used there."""
    words = []
    for word in shlex.split(line.replace("[!m]", "\0")):
        for name, place in places.items():
            word = word.replace(f"${name}", place)
        word = word.replace("\0", "[!m]")
        folder, pattern = Path(word).parent, Path(word).name
        words += sorted(map(str, folder.glob(pattern))) if "*" in word else [word]
    return words


def walk(name: str, raw: Path, out: Path) -> None:
    """Run the commands of a script in this process."""
    text = (WALKS / f"{name}.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    tables = re.findall(
        r'^cat > "\$out/(.*)" <<\'END\'\n(.*?)^END$', text, re.MULTILINE | re.DOTALL
    )
    for file, content in tables:
        (out / file).write_text(content, encoding="utf-8")
    commands = [line for line in text.splitlines() if re.match(r"(milk-recsys|mkdir|cp) ", line)]
    assert [c.split()[1] for c in commands if c.startswith("milk")][-1] == "recommend"
    for line in commands:
        program, *words = words_of(line, {"raw": str(raw), "out": str(out)})
        if program == "mkdir":
            Path(words[-1]).mkdir(parents=True)
        elif program == "cp":
            for word in words[:-1]:
                shutil.copy(word, words[-1])
        else:
            assert main(words) == 0, line


def check_lists(out: Path) -> None:
    """Check that customers have lists of distinct new items, best first."""
    lists = pl.read_csv(out / "lists/users.tsv", separator="\t", quote_char=None)
    assert lists["user"].n_unique() > 1
    first = lists.filter(pl.col("user") == lists["user"][0]).sort("rank")
    assert first["rank"].to_list() == list(range(1, len(first) + 1))
    assert first["score"].is_sorted(descending=True)
    assert first["item"].n_unique() == len(first) > 1
    assert (out / "lists/items.tsv").stat().st_size > 0


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not write the report of the run, which takes most of the time."""
    monkeypatch.setattr(train, "write_report", lambda folder: (folder / "report.html").touch())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "raw"
    write_raw(root)
    return root


@pytest.mark.parametrize(
    "name", ["amazon", "arrays", "hm", "json", "movielens", "mmrec", "recbole"]
)
def test_a_walk_on_small_files(small: Path, tmp_path: Path, name: str) -> None:
    walk(name, small / {"arrays": "npz"}.get(name, name), tmp_path)
    check_lists(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_walk_on_files_as_people_have_them(cases_root: Path, tmp_path: Path, name: str) -> None:
    walk(name, cases_root / "raw_pack" / CASES[name], tmp_path)
    check_lists(tmp_path)


def test_every_kind_of_raw_file_has_a_walk() -> None:
    cases = os.environ.get("INVMOD_CASES")
    if cases:
        folders = {path.name for path in (Path(cases) / "raw_pack").iterdir() if path.is_dir()}
        assert folders == set(CASES.values())
    assert {"table", "recbole", "movielens", "hm", "amazon", "mmrec"} <= {
        word
        for name in SCRIPTS
        for word in (WALKS / f"{name}.sh").read_text().split("milk-recsys prepare ")[1].split()[:1]
    }
