"""Files under temporary names, journals, and locks of folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milk_recsys.base import files
from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.base.files import Journal, remove_leftovers, replacing, replacing_folder
from milk_recsys.base.lock import LOCK, check_free, folder_lock
from tests.library.test_files import make_device

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
HOLDER = """
import sys
from pathlib import Path
from milk_recsys.base.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


# --- temporary names ------------------------------------------------------------------------------


def test_a_temporary_file_is_created_by_this_process_under_a_random_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first.stat().st_size == second.stat().st_size == 0
        assert first.name != second.name
        assert str(os.getpid()) not in first.name.split(".")
        first.write_text("first")
        second.write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "first"


def test_a_link_at_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * (2 * size))
    (tmp_path / "a.txt").write_text("of others")
    (tmp_path / f".b.{'0' * 16}.tmp").symlink_to(tmp_path / "a.txt")
    with pytest.raises(FileExistsError), replacing(tmp_path / "b") as temporary:
        temporary.write_text("mine")
    assert (tmp_path / "a.txt").read_text() == "of others"
    assert (tmp_path / f".b.{'0' * 16}.tmp").is_symlink()


@pytest.mark.parametrize("kind", ["symbolic link", "named pipe", "folder", "device"])
def test_only_a_regular_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "target"
    if kind == "symbolic link":
        (tmp_path / "file").write_text("of others")
        path.symlink_to(tmp_path / "file")
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        make_device(path)
    with pytest.raises(DataError, match=f"is a {kind}, which is never replaced. Remove it"):
        files.write_json(path, {})
    if kind == "symbolic link":
        assert (tmp_path / "file").read_text() == "of others"
    assert path.is_symlink() or not path.is_file()


def test_errors_of_writing_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "no" / "a"):
        pass
    assert error.value.filename == str(tmp_path / "no" / "a")

    def fill_the_disk() -> None:
        with replacing(tmp_path / "a"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as full:
        fill_the_disk()
    assert full.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"

    def write(failing: bool) -> None:
        with replacing_folder(out) as folder:
            (folder / "a").write_text("a")
            assert not out.exists() or not any(out.iterdir())
            if failing:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(failing=True)
    assert list(out.parent.iterdir()) == []
    out.mkdir()  # An empty folder may be filled.
    write(failing=False)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(DataError, match="exists already, and is never overwritten"):
        write(failing=False)


def test_a_link_to_an_empty_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(DataError, match="never overwritten"), replacing_folder(tmp_path / "link"):
        pass
    assert (tmp_path / "link").is_symlink()


def test_only_leftovers_of_the_named_files_are_removed(tmp_path: Path) -> None:
    own = [".a.txt.12.tmp", ".a.txt.12.0123abcd.tmp", f".a.txt.{'0f' * 8}.tmp"]
    of_others = [".b.txt.12.tmp", ".a.txt.tmp", ".tmp", ".a.txt.mine.tmp", "a.txt.12.tmp"]
    for name in own + of_others:
        (tmp_path / name).touch()
    (tmp_path / ".a.txt.13.tmp").symlink_to(tmp_path / ".b.txt.12.tmp")
    (tmp_path / ".a.txt.14.tmp").mkdir()
    remove_leftovers(tmp_path, ["a.txt"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*of_others, ".a.txt.13.tmp", ".a.txt.14.tmp"]
    )


# --- journals -------------------------------------------------------------------------------------


def write_epochs(path: Path, epochs: list[int]) -> Journal:
    path.write_text("".join(json.dumps({"epoch": epoch}) + "\n" for epoch in epochs))
    return Journal(path)


def test_later_epochs_are_removed_from_a_history(tmp_path: Path) -> None:
    history = write_epochs(tmp_path / "history.jsonl", [0, 1, 2, 3])
    history.truncate_after(1)
    assert history.read() == [{"epoch": 0}, {"epoch": 1}]
    history.truncate_after(-1)
    assert history.read() == []


@pytest.mark.parametrize("epochs", [[0], [], [0, 1, 1], [0, 1, 0, 1], [1, 0], [0, 2], [-1, 0, 1]])
def test_a_history_that_lacks_or_repeats_an_epoch_is_refused(
    tmp_path: Path, epochs: list[int]
) -> None:
    history = write_epochs(tmp_path / "history.jsonl", epochs)
    before = history.path.read_bytes()
    with pytest.raises(DataError, match="does not have one line for each of the 2 epochs"):
        history.truncate_after(1)
    assert history.path.read_bytes() == before


@pytest.mark.parametrize("line", ["[]", "{}", '{"epoch": "1"}', '{"epoch": true}', "3", "null"])
def test_a_history_line_without_an_epoch_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "history.jsonl").write_text(f'{{"epoch": 0}}\n{line}\n')
    with pytest.raises(DataError, match="without the number of an epoch"):
        Journal(tmp_path / "history.jsonl").truncate_after(0)


def test_a_journal_is_not_appended_through_a_link_or_to_a_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic link"):
        Journal(tmp_path / "link").append({"epoch": 0})
    assert (tmp_path / "file").read_text() == ""
    make_device(tmp_path / "device")
    with pytest.raises(DataError, match="is a device, not a regular file"):
        Journal(tmp_path / "device").append({"epoch": 0})


@pytest.mark.parametrize("content", [b"[" * 100_000 + b"\n", b"\xff\xfe\n", b"{\n"])
def test_a_damaged_line_of_a_journal_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"has a damaged line .* Remove it"):
        Journal(tmp_path / "runs.jsonl").read()


# --- locks ----------------------------------------------------------------------------------------


def test_one_process_holds_the_lock_and_removes_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert json.loads((tmp_path / LOCK).read_text()) == {
            "process": process.pid,
            "host": socket.gethostname(),
        }
        words = rf"{tmp_path} is being written by process {process.pid} on {socket.gethostname()}"
        with pytest.raises(OptionError, match=words):
            check_free(tmp_path)
        with pytest.raises(OptionError, match=words), folder_lock(tmp_path):
            pass
        process.communicate("")
    check_free(tmp_path)
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    check_free(tmp_path)
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_where_a_file_system_has_no_locks_the_process_in_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("milk_recsys.base.lock.fcntl.flock", no_locks)
    content = {"process": os.getppid(), "host": socket.gethostname()}
    (tmp_path / LOCK).write_text(json.dumps(content))
    with pytest.raises(OptionError, match=f"written by process {os.getppid()}"):
        check_free(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps({**content, "host": "elsewhere"}))
    with pytest.raises(OptionError, match="on elsewhere"), folder_lock(tmp_path):
        pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / LOCK).write_text(json.dumps({**content, "process": gone.pid}))
    with folder_lock(tmp_path):
        pass


def test_the_lock_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of others")
    (tmp_path / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(DataError, match="cannot be created"), folder_lock(tmp_path):
        pass
    assert (tmp_path / "file").read_text() == "of others"
