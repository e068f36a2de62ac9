"""The page of standings is what the results files hold."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from milk_recsys import bench
from milk_recsys.base.errors import DataError
from milk_recsys.study import claims
from milk_recsys.study.bench.score import systems
from milk_recsys.study.bench.standings import standings_page, table_of
from milk_recsys.study.bench.tasks import SETS, recorded_hashes
from milk_recsys.study.records import p_text
from milk_recsys.study.store import Store

ROOT = Path(__file__).parents[2]
RESULTS, ENTRIES = ROOT / "docs/results", ROOT / "docs/entries"

pytestmark = pytest.mark.results


def tables(page):
    """Return the tables of a page: (data set, title) -> rows, each a dictionary."""
    found, name, title = {}, "", ""
    for line in page.splitlines():
        if line.startswith("## "):
            name = line[3:]
        elif line.startswith("### "):
            title, names = line[4:], None
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if names is None:
                names, found[name, title] = cells, []
            elif cells[0] != "---":
                found[name, title].append(dict(zip(names, cells, strict=True)))
    return found


@pytest.fixture(scope="module")
def whole():
    """The page of all results; its bootstraps take some ten seconds."""
    return standings_page(RESULTS, ENTRIES)


@pytest.fixture(scope="module")
def page(whole):
    return tables(whole)


@pytest.mark.slow
def test_the_committed_page_is_what_the_results_files_hold(whole):
    """If this fails, run `milk-recsys bench standings`."""
    assert (ROOT / "docs/standings.md").read_text(encoding="utf-8") == whole


@pytest.mark.slow
def test_a_table_has_the_means_and_p_values_of_the_results(page):
    assert {name for name, _ in page} == set(SETS)
    rows = page["lfm2k", "FTMT, held-out splits 200..209"]
    runs = systems(Store(RESULTS / "lfm2k"), "ftmt")
    means = {}
    for row in rows:
        if not row["system"].endswith("*"):
            lines = [runs[row["system"]][seed] for seed in range(200, 210)]
            means[row["system"]] = np.array([line["test"]["ndcg@20"] for line in lines])
            assert row["ndcg@20"].startswith(f"{means[row['system']].mean():.3f} ± ")
    assert len(means) >= 8
    assert [int(row["place"]) for row in rows] == list(range(1, len(rows) + 1))
    shown = [float(row["ndcg@20"].split()[0]) for row in rows]
    assert shown == sorted(shown, reverse=True)
    # The p-values by hand, from one number per split, and Holm's correction.
    first = rows[0]["system"]
    p = []
    for row in rows[1:]:
        ratios = np.log(means[first]) - np.log(value_of(row, means))
        error = ratios.std(ddof=1) * np.sqrt(1 / 10 + 1 / 8)
        p.append(2 * claims.stats.t.sf(abs(ratios.mean()) / error, 9))
    for row, corrected in zip(rows[1:], claims.holm(p), strict=True):
        assert row["p"] == p_text(corrected)


def value_of(row, means):
    """Return the NDCG@20 of the splits of a system, or of an entry."""
    if row["system"] in means:
        return means[row["system"]]
    entry = json.loads((ENTRIES / f"lfm2k/{row['system'][:-1]}.json").read_text())
    return np.array([entry["seeds"][str(seed)]["ndcg@20"] for seed in range(200, 210)])


def test_every_system_and_entry_is_in_a_table(page):
    for name in SETS:
        entries = {f"{path.stem}*" for path in (ENTRIES / name).glob("*.json")}
        assert entries
        shown = {row["system"] for (n, _), rows in page.items() if n == name for row in rows}
        lines = Store(RESULTS / name).lines
        repeated = {
            line["method"]
            for line in lines
            if "test" in line and line["options"]["model"] == line["method"]
        }
        assert repeated | entries <= shown


def test_held_out_splits_come_first_and_ablations_are_left_out(page):
    titles = [title for name, title in page if name == "tiktok"]
    assert titles[0].startswith("FTMT, held-out splits")
    assert any(title.startswith("FTMT, splits used in development") for title in titles)
    assert not {"not shrunk", "w/o cs"} & {row["system"] for rows in page.values() for row in rows}


def make_runs(**values):
    """Return runs of systems with the given NDCG@20 per split."""
    return {
        name: {
            seed: {
                "test": dict.fromkeys(("ndcg@20", "recall@20"), value),
                "options": {"split_seed": seed},
            }
            for seed, value in enumerate(by_split)
        }
        for name, by_split in values.items()
    }


def test_a_table_is_sorted_and_states_the_change_to_the_first():
    rows = table_of(make_runs(a=[0.2, 0.2], b=[0.4, 0.4]), "ftmt", "test")
    assert [row["system"] for row in rows] == ["b", "a"]
    assert rows[0]["p"] == rows[0]["change to the first"] == ""
    assert rows[1]["change to the first"] == "-50.0%"
    assert rows[1]["p"] == "0.500"  # Two equal differences: the sign test.
    assert rows[1]["splits, users for and against"] == ""  # no values of users


def copied(folder):
    """Copy the held-out runs of three systems, without values of users, and the entries."""
    (folder / "lfm2k").mkdir(parents=True)
    shutil.copytree(ENTRIES / "lfm2k", folder / "entries/lfm2k")
    whole, few = Store(RESULTS / "lfm2k"), Store(folder / "lfm2k")
    for line in whole.lines:
        if line["phase"] == "fresh" and line["method"] in ("keep", "ridge", "milk"):
            few.add({key: value for key, value in line.items() if key != "per_user"})
    few.compact()
    return folder


def test_an_entry_appears_and_disappears_with_its_file(tmp_path):
    folder = copied(tmp_path)
    path = folder / "entries/lfm2k/numpy_ridge.json"
    entry = json.loads(path.read_text())
    path.unlink()
    assert "numpy_ridge" not in standings_page(folder, folder / "entries")
    entry["name"] = "mine"
    path.with_name("mine.json").write_text(json.dumps(entry))
    assert "| mine* |" in standings_page(folder, folder / "entries")


def test_an_entry_on_some_of_the_splits_is_named_below_the_table(tmp_path):
    folder = copied(tmp_path)
    path = folder / "entries/lfm2k/numpy_ridge.json"
    entry = json.loads(path.read_text())
    del entry["seeds"]["204"]
    path.write_text(json.dumps(entry))
    page = standings_page(folder, folder / "entries")
    assert "| numpy_ridge* |" not in page
    assert "Not run on all of these splits: numpy_ridge*." in page


def test_systems_without_a_common_split_are_named_without_a_table(tmp_path):
    folder = copied(tmp_path)
    store = Store(folder / "lfm2k")
    shutil.rmtree(folder / "lfm2k")
    shutil.rmtree(folder / "entries")
    (folder / "lfm2k").mkdir()
    few = Store(folder / "lfm2k")
    left_out = {"keep": 0, "ridge": 1, "milk": 2}
    for line in store.lines:
        if line["number"] < 3 and line["number"] != left_out[line["method"]]:
            few.add(line)
    few.compact()
    page = standings_page(folder, folder / "entries")
    assert (
        "### FTMT, held-out splits 200..202\n\n0 systems. Not run on all of these splits: " in page
    )
    assert tables(page) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda entry: entry["seeds"]["200"].update(split="0" * 16),
            "split 200 has the split hash",
        ),
        (lambda entry: entry.pop("seeds"), "is not an entry .KeyError"),
        (lambda entry: entry["seeds"]["200"].pop("ndcg@20"), "is not an entry .KeyError"),
        (lambda entry: entry.update(task="x"), "is not an entry .ValueError"),
        (lambda entry: entry.update(seeds=[]), "is not an entry .AttributeError"),
    ],
)
def test_a_damaged_entry_is_refused(change, message, tmp_path):
    folder = copied(tmp_path)
    path = folder / "entries/lfm2k/numpy_ridge.json"
    entry = json.loads(path.read_text())
    assert entry["seeds"]["200"]["split"] == recorded_hashes("lfm2k", "ftmt", 200)["split"]
    change(entry)
    path.write_text(json.dumps(entry))
    with pytest.raises(DataError, match=message):
        standings_page(folder, folder / "entries")


def test_the_command_writes_the_page(tmp_path, capsys):
    folder = copied(tmp_path / "results")
    words = ["standings", "--results", str(folder), "--entries", str(folder / "entries")]
    words += ["--out", str(tmp_path / "page.md")]
    assert bench.main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.md'}\n"
    assert (tmp_path / "page.md").read_text() == standings_page(folder, folder / "entries")
    assert bench.main(["standings", "--results", str(tmp_path / "none")]) == 2
    assert "holds no results" in capsys.readouterr().err
