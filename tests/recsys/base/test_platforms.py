"""What other systems lack is replaced: their branches run here, with the system's name changed."""

import os
import sys
import types

import numpy as np
import pytest

from milk_recsys.base import lock
from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.importers.write import take_space


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("rows", [1, 700_000])
def test_the_space_of_an_array_is_taken_and_its_header_stays(tmp_path, monkeypatch, platform, rows):
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 2))
    size = path.stat().st_size
    monkeypatch.setattr(sys, "platform", platform)
    with path.open("r+b") as file:
        take_space(file, size - array.nbytes, array.nbytes)
    monkeypatch.undo()
    array[-1] = 3
    array.flush()
    assert path.stat().st_size == size <= path.stat().st_blocks * 512
    read = np.load(path)
    assert read.shape == (rows, 2)
    assert read.sum() == 6


def test_a_byte_behind_the_content_is_locked_on_windows(tmp_path, monkeypatch):
    held = set()

    def locking(handle, mode, count):
        key = os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR)
        assert (mode, count) == (1, 1)
        if key in held:
            raise OSError("Permission denied")
        held.add(key)

    monkeypatch.setattr(sys, "platform", "win32")
    fake = types.SimpleNamespace(locking=locking, LK_NBLCK=1)
    monkeypatch.setattr(lock, "msvcrt", fake, raising=False)
    with lock.folder_lock(tmp_path):
        with pytest.raises(OptionError, match=f"is being written by process {os.getpid()} on"):
            lock.check_free(tmp_path)
        assert {place for _, place in held} == {1_000_000}
    assert list(tmp_path.iterdir()) == []
