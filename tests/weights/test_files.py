import json
import os
import stat

import pytest

from alexnet.errors import RunError, UserError
from alexnet.files import atomic_write, open_file, read_all, write_json


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "a"
    with atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_stops_the_writer_nothing_is_left(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match="No space"), atomic_write(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_places_where_no_file_can_be(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(UserError, match="can't write"), atomic_write(path):
            pass


def test_only_a_regular_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(UserError, match="pipe: it is not a regular file"), atomic_write(path):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None]}


def test_reading_has_a_limit(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    with open_file(tmp_path / "a", 100) as file:
        assert len(read_all(file)) == 100
    with pytest.raises(UserError, match="more than the 99"), open_file(tmp_path / "a", 99):
        pass
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="can't read"), open_file(path):
            pass


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for path in (tmp_path / "fifo", tmp_path / "link", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match="not a regular file"), open_file(path):
            pass
    (tmp_path / "a").write_bytes(b"content")
    with open_file(tmp_path / "a") as file:
        assert file.read() == b"content"


def test_a_link_is_followed_unless_it_must_not_be(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    with open_file(tmp_path / "link") as file:
        assert file.read() == b"abc"
    with (
        pytest.raises(UserError, match="link, which could lead anywhere"),
        open_file(tmp_path / "link", follow=False),
    ):
        pass


def test_what_was_opened_is_what_was_checked(tmp_path, monkeypatch):
    """A file that becomes a FIFO after a look at its name is no way in."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"abc")
    stat = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: stat)
    with pytest.raises(UserError, match="not a regular file"), open_file(tmp_path / "fifo"):
        pass
