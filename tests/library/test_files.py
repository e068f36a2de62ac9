"""Files are written atomically."""

import os
import stat

import pytest

from invmod._files import replacing, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        assert temporary.parent == tmp_path  # a rename within one folder is atomic
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_path_use_different_temporary_files(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(str(path)) as second:
        assert first != second
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "first"  # the outer block ends last


def test_text_is_utf8_and_has_the_permissions_of_an_ordinary_file(tmp_path):
    write_text(tmp_path / "a.txt", "\N{MINUS SIGN}1\n")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").read_bytes() == b"\xe2\x88\x921\n"
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def make_device(path):
    """Make a device like /dev/null; the real one must not be at risk in a test that may fail."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("Only root may make a device.")


@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_only_a_regular_file_is_replaced(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "link":
        (tmp_path / "file").write_text("of others", encoding="utf-8")
        path.symlink_to(tmp_path / "file")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        make_device(path)
    with pytest.raises(FileExistsError, match="is not replaced; remove it, or name another"):
        write_text(path, "mine")
    assert not path.is_file() or (path.is_symlink() and path.read_text() == "of others")


def test_a_link_at_the_temporary_name_is_neither_followed_nor_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("invmod._files.secrets.token_hex", lambda size: "0" * (2 * size))
    (tmp_path / "file").write_text("of others", encoding="utf-8")
    link = tmp_path / f".a.txt.{'0' * 16}.tmp"
    link.symlink_to(tmp_path / "file")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "mine")
    assert link.is_symlink()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "of others"
