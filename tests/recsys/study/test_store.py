"""The results file: compaction keeps every value, a killed study loses none, no torch is needed."""

import base64
import json
import multiprocessing
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from milk_recsys.base import files
from milk_recsys.base.errors import DataError
from milk_recsys.study import store as module
from milk_recsys.study.store import Store, main, user_values

ROOT = Path(__file__).parents[3]
MAX_BYTES_OF_RESULTS = 7e6
ODD = [0.1, -0.0, 1e-45, float(np.float32(1 / 3)), float("inf"), 0.0, 1.0]


def make_line(number=0, **values):
    options = {
        "split_seed": 0,
        "candidates": "test",
        "lr": 0.1 + 0.2,
        "method": None,
        "tf32": False,
        "epochs": 300,
    }
    line = {
        "phase": "repeat",
        "method": "milk",
        "setting": "ftmt",
        "number": number,
        "options": options,
    }
    return {**line, "split": "a1", "candidates": "b2", **values}


LINES = [
    make_line(0, tuned={}, seconds=1e-7, epochs=3, triples=2**40),
    make_line(
        1,
        per_user=np.array(ODD, dtype=np.float32),
        test={"ndcg@20": 1 / 3, "users": 7, "deep": {"a": [1, 2.0]}},
    ),
    make_line(
        2,
        per_user=np.zeros(0, dtype=np.float32),
        diverged="loss is ± infinite",
        best=None,
        early=True,
    ),
    make_line(3, tuned={"width": 1, "ridge": 1.0, "lr": 5e-324}),
]


def typed(value):
    """Return a value with its types and the order of its keys, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.dtype, value.tobytes()
    return type(value), repr(value)


def write(folder, lines=LINES):
    store = Store(folder)
    for line in lines:
        store.add(line)
    return store


def assert_same(lines, expected=LINES):
    assert len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        assert {key: typed(value) for key, value in line.items()} == {
            key: typed(x) for key, x in other.items()
        }


def test_every_value_survives_the_journal_and_compaction(tmp_path):
    write(tmp_path)
    assert_same(Store(tmp_path).lines)
    assert Store(tmp_path).compact()
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]
    assert_same(Store(tmp_path).lines)
    assert user_values(Store(tmp_path).lines[1]).dtype == np.float64


def test_compaction_without_new_runs_leaves_the_table_as_it_is(tmp_path):
    write(tmp_path).compact()
    before = (tmp_path / "runs.parquet").stat().st_mtime_ns
    assert not Store(tmp_path).compact()
    assert (tmp_path / "runs.parquet").stat().st_mtime_ns == before
    assert not Store(tmp_path / "absent").compact()
    assert not (tmp_path / "absent").exists()


def test_a_journal_of_an_older_version_is_read(tmp_path):
    """Users' values as base64 of deflated float32, and a last line that a kill has cut."""
    values = np.array([0, 1, 0.5, 1], dtype="<f4")
    old = {**make_line(), "per_user": base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()}
    (tmp_path / "runs.jsonl").write_text(json.dumps(old) + "\n" + '{"phase": "tri')
    (line,) = Store(tmp_path).lines
    assert line["per_user"].tolist() == values.tolist()


def test_the_journal_follows_the_table(tmp_path):
    write(tmp_path, LINES[:2]).compact()
    write(tmp_path, LINES[2:])
    assert_same(Store(tmp_path).lines)
    store = Store(tmp_path)
    store.compact()
    assert_same(store.lines)
    assert_same(Store(tmp_path).lines)


def test_a_later_line_of_the_same_run_replaces_the_earlier_one(tmp_path):
    write(tmp_path).compact()
    newer = make_line(1, seconds=5.0)
    write(tmp_path, [newer])
    expected = [LINES[0], newer, *LINES[2:]]
    assert_same(Store(tmp_path).lines, expected)
    Store(tmp_path).compact()
    assert_same(Store(tmp_path).lines, expected)


@pytest.mark.parametrize("step", ["write", "rename", "remove"])
def test_a_kill_during_compaction_loses_nothing(step, tmp_path, monkeypatch):
    write(tmp_path, LINES[:2]).compact()
    store = write(tmp_path, LINES[2:])

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner, name = {
            "write": (module, "_write_table"),
            "rename": (files.Path, "replace"),
            "remove": (files.Path, "unlink"),
        }[step]
        if step == "rename":
            real = files.Path.replace
            patch.setattr(
                owner,
                name,
                lambda path, to: killed() if to.suffix == ".parquet" else real(path, to),
            )
        elif step == "remove":
            real_unlink = files.Path.unlink
            patch.setattr(
                owner,
                name,
                lambda path, **given: (
                    killed() if path.name == "runs.jsonl" else real_unlink(path, **given)
                ),
            )
        else:
            patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
    assert_same(Store(tmp_path).lines)
    Store(tmp_path).compact()
    assert_same(Store(tmp_path).lines)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]


def _add_and_compact(folder, first):
    for number in range(first, first + 20):
        store = Store(folder)
        store.add(make_line(number, method=f"m{first}"))
        if number % 5 == 4:
            store.compact()


@pytest.mark.slow
def test_processes_that_share_a_folder_lose_nothing(tmp_path):
    """One compacts what another is adding to, from a state that is older than the other's runs."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_add_and_compact, args=(tmp_path, first)) for first in (0, 100)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    keys = sorted((x["method"], x["number"]) for x in Store(tmp_path).lines)
    assert keys == sorted((f"m{first}", n) for first in (0, 100) for n in range(first, first + 20))


def test_a_store_keeps_the_runs_that_another_one_compacted(tmp_path):
    early = Store(tmp_path)
    early.add(LINES[0])
    other = Store(tmp_path)
    other.add(LINES[1])
    other.compact()
    early.add(LINES[2])
    early.compact()
    assert_same(Store(tmp_path).lines, LINES[:3])
    assert_same(early.lines, LINES[:3])


@pytest.mark.parametrize("content", [b"PAR1 and no more", b""])
def test_a_damaged_table_is_an_error(content, tmp_path):
    (tmp_path / "runs.parquet").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Store(tmp_path)


def test_a_table_of_another_kind_is_an_error(tmp_path):
    pl.DataFrame({"phase": ["trial"]}).write_parquet(tmp_path / "runs.parquet")
    with pytest.raises(DataError, match="not those of a study's results file"):
        Store(tmp_path)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_compacts_and_joins(tmp_path, capsys):
    for name, lines in (("a", LINES[:2]), ("b", LINES[2:])):
        (tmp_path / name).mkdir()
        write(tmp_path / name, lines)
    assert main([str(tmp_path / "a"), "--add", str(tmp_path / "b")]) == 0
    assert "runs.parquet: 4 runs" in capsys.readouterr().out
    assert_same(Store(tmp_path / "a").lines)
    assert_same(Store(tmp_path / "b").lines, LINES[2:])
    assert main([str(tmp_path / "none")]) == 2
    assert "holds no runs" in capsys.readouterr().err


# --- what importing costs, and what is committed --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["store", "records", "plan", "claims", "tables", "figures", "field", "results"]
)
def test_reading_results_imports_no_torch(name):
    code = f"import sys; import milk_recsys.study.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_committed_results_are_small():
    """Each data set has one compacted table of runs; files made from it are not committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    results = [ROOT / name for name in listed.split("\0") if name.startswith("docs/results/")]
    assert len(results) > 50
    assert sum(path.stat().st_size for path in results if path.exists()) < MAX_BYTES_OF_RESULTS
    assert not {path.suffix for path in results} & {".csv", ".pdf", ".tex"}
    assert "runs.jsonl" not in {path.name for path in results}
