"""Bad files, full disks, interruptions: a command ends with one sentence and a status."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from milk_recsys import train
from milk_recsys.__main__ import main
from milk_recsys.base import reading
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import Journal
from milk_recsys.base.terminal import printable
from milk_recsys.catalogue.dataset import FILES, read_dataset
from milk_recsys.catalogue.raw import delimited, json_lines
from milk_recsys.config.options import Options, validate
from milk_recsys.methods.milk import step
from tests.library.test_files import make_device
from tests.recsys.conftest import Outcome, one_sentence

SECONDS = 120  # Longest time of a test.


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fail a test that waits for ever, for example for a writer of a pipe."""

    def hang(*_: object) -> None:
        raise AssertionError(f"the test ran for more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def data(tmp_path: Path, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path / "data", items=120, pairs_per_user=20)


@pytest.fixture
def copied_run(tmp_path: Path, trained_run: SimpleNamespace) -> Path:
    return Path(shutil.copytree(trained_run.folder, tmp_path / "run"))


def start(*words: str, **kwargs: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **kwargs.pop("env", {})}
    return subprocess.Popen([sys.executable, *words], text=True, env=environment, **kwargs)


# --- files that are no files ----------------------------------------------------------------------


def replace(path: Path, kind: str, elsewhere: Path) -> None:
    """Put a pipe, a device, a folder, or a link out of the folder in place of a file."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "device":
        make_device(path)
    elif kind == "folder":
        path.mkdir()
    else:
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)


KINDS = ("named pipe", "device", "folder", "link")
WORDS = {kind: f"is a {kind}, not a regular file" for kind in KINDS} | {"link": "leads outside"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FILES, "features/text.npy"])
def test_a_data_set_is_made_of_regular_files_in_its_folder(
    tmp_path: Path, data: Path, name: str, kind: str
) -> None:
    if name in ("interactions.npy", "times.npy"):
        pairs = np.loadtxt(data / "interactions.tsv", dtype=np.int32, skiprows=1)
        (data / "interactions.tsv").unlink()
        np.save(data / "interactions.npy", pairs)
        np.save(data / "times.npy", np.arange(len(pairs), dtype=float))
    replace(data / name, kind, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=WORDS[kind]):
        read_dataset(data)


@pytest.mark.parametrize("kind", ["named pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "users.tsv"])
def test_recommend_reads_only_regular_files_of_a_run(
    tmp_path: Path, copied_run: Path, data: Path, outcome: Callable[..., Outcome], name: str,
    kind: str,
) -> None:  # fmt: skip
    replace(copied_run / name, kind, tmp_path / "elsewhere")
    words = ("recommend", "--run", copied_run, "--items", data, "--out", tmp_path / "out")
    assert WORDS[kind] in one_sentence(outcome(*words))


@pytest.mark.parametrize("kind", ["named pipe", "folder"])
@pytest.mark.parametrize(
    "name", ["config.json", "split.npz", "checkpoint.safetensors", "history.jsonl"]
)
def test_resume_reads_only_regular_files_of_a_run(
    tmp_path: Path, copied_run: Path, trained_run: SimpleNamespace,
    outcome: Callable[..., Outcome], name: str, kind: str,
) -> None:  # fmt: skip
    (copied_run / "report.html").unlink()
    replace(copied_run / name, kind, tmp_path / "elsewhere")
    assert WORDS[kind] in one_sentence(outcome("train", "--resume", "--out", copied_run))


@pytest.mark.parametrize("source", ["--pairs", "--features", "--text"])
def test_prepare_reads_only_regular_files(
    tmp_path: Path, outcome: Callable[..., Outcome], source: str
) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "items.csv").write_text("item,n0,n1\nx,1,2\ny,2,3\n")
    os.mkfifo(tmp_path / "pipe")
    given = {"--pairs": tmp_path / "pairs.csv", "--features": f"n={tmp_path / 'items.csv'}"}
    pipe = tmp_path / "pipe"
    given[source] = pipe if source == "--pairs" else f"n2={pipe}:n"
    words = [word for pair in given.items() for word in pair]
    error = one_sentence(outcome("prepare", "table", *words, "--out", tmp_path / "out"))
    assert "is a named pipe" in error


# --- lines without end, deep JSON -----------------------------------------------------------------


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reading, delimited, json_lines):
        monkeypatch.setattr(module, "MAX_LINE", 5000)


@pytest.mark.usefixtures("short_lines")
@pytest.mark.parametrize("name", ["dataset.json", "interactions.tsv", "users.tsv", "items.tsv"])
def test_a_line_without_end_is_refused(data: Path, name: str) -> None:
    with (data / name).open("a") as file:
        file.write("1" * 20_000)
    with pytest.raises(DataError, match=r"line \d+: has more than 5,000 characters"):
        read_dataset(data)


@pytest.mark.usefixtures("short_lines")
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_a_line_without_end_is_refused_in_raw_files(
    tmp_path: Path, outcome: Callable[..., Outcome], name: str
) -> None:
    start = "user,item\n" if name.endswith("csv") else '{"user": "a", "item": "b"}\n'
    (tmp_path / name).write_text(start + "x" * 200_000)
    (tmp_path / "items.csv").write_text("item,n0,n1\nb,1,2\n")
    words = (
        "prepare", "table", "--pairs", tmp_path / name, "--features",
        f"n={tmp_path / 'items.csv'}", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "has more than 5,000 bytes" in one_sentence(outcome(*words))


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("name", ["config.json", "history.jsonl"])
def test_deep_json_in_a_run_is_one_sentence(
    copied_run: Path, outcome: Callable[..., Outcome], name: str
) -> None:
    (copied_run / "report.html").unlink()
    (copied_run / name).write_text(DEEP + "\n")
    error = one_sentence(outcome("train", "--resume", "--out", copied_run))
    assert str(copied_run / name) in error


def test_deep_facts_of_a_checkpoint_are_one_sentence(
    copied_run: Path, outcome: Callable[..., Outcome]
) -> None:
    (copied_run / "report.html").unlink()
    header = json.dumps({"__metadata__": {"facts": DEEP}}).encode()
    content = len(header).to_bytes(8, "little") + header
    (copied_run / "checkpoint.safetensors").write_bytes(content)
    error = one_sentence(outcome("train", "--resume", "--out", copied_run))
    assert "checkpoint.safetensors: is damaged" in error


@pytest.mark.parametrize("change", ["shortened", "doubled", "reversed"])
def test_a_changed_history_is_not_resumed(
    copied_run: Path, outcome: Callable[..., Outcome], change: str
) -> None:
    (copied_run / "report.html").unlink()
    history = copied_run / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    changed = {"shortened": lines[:-1], "doubled": lines * 2, "reversed": lines[::-1]}[change]
    history.write_text("".join(changed))
    error = one_sentence(outcome("train", "--resume", "--out", copied_run))
    assert "does not have one line for each of the 2 epochs" in error
    assert history.read_text() == "".join(changed)


# --- disks and folders ----------------------------------------------------------------------------


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Let every write beyond `free` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("free", [0, 100, 2000, 6000])
def test_a_full_disk_ends_training_with_one_sentence(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], free: int
) -> None:
    words = ("--data", data, "--out", tmp_path / "run", "--device", "cpu", "--model", "milk")
    with full_disk(free):
        ended = outcome("train", *words, "--epochs", 2, "--resume")
    assert f"{tmp_path / 'run'}" in one_sentence(ended)
    assert "File too large" in ended[2]
    assert not list((tmp_path / "run").glob(".*"))
    assert outcome("train", *words, "--epochs", 2, "--resume")[0] == 0


@pytest.mark.parametrize("free", [0, 500])
def test_a_full_disk_ends_recommend_and_prepare_with_one_sentence(
    tmp_path: Path, data: Path, copied_run: Path, outcome: Callable[..., Outcome], free: int
) -> None:
    words = ("recommend", "--run", copied_run, "--items", data, "--out", tmp_path / "lists")
    with full_disk(free):
        error = one_sentence(outcome(*words))
    assert str(tmp_path / "lists") in error
    (tmp_path / "pairs.csv").write_text("user,item\n" + "a,x\nb,y\n" * 100)
    (tmp_path / "items.csv").write_text("item,n\n" + "x,1\ny,2\n")
    words = (
        "prepare", "table", "--pairs", tmp_path / "pairs.csv", "--features",
        f"n={tmp_path / 'items.csv'}", "--out", tmp_path / "set",
    )  # fmt: skip
    with full_disk(free // 4):
        error = one_sentence(outcome(*words))
    assert str(tmp_path / "set") in error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_output_that_cannot_be_written_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        process = start("-m", "milk_recsys", "--help", stdout=full, stderr=subprocess.PIPE)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error == (
        "error: a file cannot be read or written (No space left on device). Free space on the "
        "disk, or name a folder on another one.\n"
    )


@pytest.mark.parametrize("where", ["file/below", "x" * 300, "file/.."])
def test_folders_that_cannot_be_made_are_one_sentence(
    tmp_path: Path, data: Path, copied_run: Path, outcome: Callable[..., Outcome], where: str
) -> None:
    (tmp_path / "file").write_text("")
    out = f"{tmp_path}/{where}"
    one_sentence(outcome("train", "--data", data, "--out", out, "--device", "cpu"))
    one_sentence(outcome("recommend", "--run", copied_run, "--items", data, "--out", out))
    words = ("--pairs", data / "interactions.tsv", "--features", f"x={data / 'items.tsv'}")
    one_sentence(outcome("prepare", "table", *words, "--out", out))
    one_sentence(outcome("train", "--data", out))
    one_sentence(outcome("train", "--resume", "--out", out))
    one_sentence(outcome("recommend", "--run", out, "--items", data))


# --- absurd numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--threads", 2**31 - 1),
        ("--threads", 10**30),
        ("--epochs", 10**30, "--model", "milk"),
        ("--popularity", 1e38),
        ("--popularity", 1e38, "--model", "linmap"),
        ("--batch-size", 10**30, "--model", "milk"),
        ("--embedding-dim", 2**31 - 1, "--model", "milk"),
        ("--landmarks", 0),
    ],
)
def test_absurd_numbers_are_refused(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], words: tuple[Any, ...]
) -> None:
    common = ("--data", data, "--out", tmp_path / "run", "--device", "cpu")
    error = one_sentence(outcome("train", *common, *words))
    assert f"{words[0]} must be" in error or "memory is too small" in error


@pytest.mark.parametrize("command", ["recommend", "reproduce"])
def test_absurd_numbers_of_threads_are_refused_by_other_commands(
    data: Path, copied_run: Path, outcome: Callable[..., Outcome], command: str
) -> None:
    first = {
        "recommend": ("recommend", "--run", copied_run, "--items", data),
        "reproduce": ("reproduce", "table2", "--smoke"),
    }[command]
    assert "--threads must be" in one_sentence(outcome(*first, "--threads", 2**31 - 1))


def test_the_memory_of_a_batch_is_bounded_by_the_pairs(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, original = [], step.prepared_rows

    def recorded(*args: Any, buffer_rows: int, **kwargs: Any) -> Any:
        rows.append(buffer_rows)
        return original(*args, buffer_rows=buffer_rows, **kwargs)

    monkeypatch.setattr(step, "prepared_rows", recorded)
    words = ("--data", data, "--out", tmp_path / "run", "--device", "cpu", "--model", "milk")
    ended = outcome("train", *words, "--epochs", 1, "--batch-size", 1_000_000_000)
    assert ended[0] == 0, ended
    pairs = len(read_dataset(data).interactions)
    assert rows
    assert 0 < max(rows) <= 2 * pairs


def test_the_largest_number_of_an_option_is_checked_for_whole_numbers() -> None:
    validate(Options.of("milk", epochs=2**31 - 1, seed=2**63 - 1))
    with pytest.raises(ValueError, match="--epochs must be at least 1 and at most 2147483647"):
        validate(Options.of("milk", epochs=2**31))


# --- terminals ------------------------------------------------------------------------------------


def test_control_characters_are_printed_as_escapes() -> None:
    assert printable("a\x1b[31m\nb\x9b\u202ec\ud800é日") == (
        "a\\x1b[31m\\nb\\x9b\\u202ec\\ud800é日"
    )


def test_names_with_escapes_do_not_reach_the_terminal(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome]
) -> None:
    manifest = json.loads((data / "dataset.json").read_text())
    entry = manifest["modalities"].pop("text")
    manifest["modalities"]["\x1b]0;owned\x07"] = {**entry, "missing_rows": 7}
    (data / "dataset.json").write_text(json.dumps(manifest))
    ended = outcome("train", "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    assert ended[0] == 0
    assert "\\x1b]0;owned\\x07: missing_rows is 0" in ended[1]
    (data / "features/text.npy").unlink()
    ended = outcome("train", "--data", data, "--out", tmp_path / "other")
    assert "\\x1b]0;owned\\x07" in one_sentence(ended)
    assert "\x1b" not in ended[1] + ended[2]


def test_names_that_the_terminal_cannot_print_do_not_stop_a_command(
    tmp_path: Path, write_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "日本", items=120, pairs_per_user=20)
    printed, errors = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", errors)
    words = ["--out", str(tmp_path / "é"), "--device", "cpu", "--compare", "none"]
    assert main(["train", "--data", str(data), *words]) == 0
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", str(tmp_path / "nowhere é"), "--out", str(tmp_path / "new")])
    printed.flush()
    errors.flush()
    assert ended.value.code == 2
    assert b"\\xe9/report.html" in printed.buffer.getvalue()
    assert b"nowhere \\xe9: no such folder" in errors.buffer.getvalue()


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["prepare", "--help"]])
def test_a_reader_that_closes_the_pipe_causes_no_traceback(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("-m", "milk_recsys", *words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (141, "")


@pytest.mark.parametrize("words", [["-m", "milk_recsys", "train"], [train.__file__]])
def test_an_interruption_before_training_is_one_line(
    tmp_path: Path, data: Path, words: list[str]
) -> None:
    """Interrupt the import of torch, which follows the checks of options and data."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/torch.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path / "fake"), *sys.path])
    options = ["--data", str(data), "--out", str(tmp_path / "run")]
    process = start(*words, *options, stderr=subprocess.PIPE, env={"PYTHONPATH": path})
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.strip()) == (130, "interrupted")
    assert not (tmp_path / "run").exists()


def test_an_interruption_while_data_are_read_is_one_line(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("milk_recsys.run.begin.read_dataset", interrupted)
    status, _, error = outcome("train", "--data", data, "--out", tmp_path / "run")
    assert (status, error) == (130, "\ninterrupted\n")


# --- spreadsheets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("formulas", ["keep", "quote"])
def test_names_that_are_formulas_are_quoted_on_request(
    tmp_path: Path, copied_run: Path, data: Path, outcome: Callable[..., Outcome], formulas: str
) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "plain"] + [f"item {k}" for k in range(114)]
    lines = [f"{number}\t{name}" for number, name in enumerate(names)]
    (data / "items.tsv").write_text("\n".join(["item\tname", *lines]) + "\n")
    words = ("--run", copied_run, "--items", data, "--format", "tsv", "--formulas", formulas)
    out = tmp_path / "out"
    assert outcome("recommend", *words, "--out", out, "--top", 120)[0] == 0
    table = pl.read_csv(out / "users.tsv", separator="\t", quote_char=None)
    written = dict(table.select("item", "item_name").unique().sort("item").iter_rows())
    quoted = [f"'{name}" for name in names[:5]] + names[5:]
    assert written == dict(enumerate(quoted if formulas == "quote" else names))
    if formulas == "quote":
        assert [name.removeprefix("'") for name in written.values()] == names


def test_journals_of_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "runs.jsonl")
    with pytest.raises(DataError, match="is a named pipe"):
        Journal(tmp_path / "runs.jsonl").read()
