import contextlib
import functools
import json
import os
import threading

import pytest

from alexnet.checkpoints import Checkpoints
from alexnet.errors import RunError


def write(directory, snapshot):
    (directory / "data").write_bytes(snapshot)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", 2, write)


def save(checkpoints, step, score=None):
    checkpoints.save(step, b"%d" % step, {"score": score})
    checkpoints.wait()


def restored(checkpoints):
    read, warnings = [], []
    meta = checkpoints.restore(
        lambda path: read.append((path / "data").read_bytes()), warnings.append
    )
    return meta and meta["step"], read[-1:], warnings


def test_the_last_few_and_the_best_stay(checkpoints):
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, None), (5, 0.3)):
        save(checkpoints, step, score and [score])
    assert checkpoints.steps() == [2, 4, 5]
    assert restored(checkpoints) == (5, [b"5"], [])


def test_nothing_saved_is_nothing_restored(checkpoints):
    assert restored(checkpoints) == (None, [], [])
    assert checkpoints.last_good() == "none was saved"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "state/data").write_bytes(b"x"),
        lambda path: (path / "state/data").unlink(),
        lambda path: (path / "state/more").write_bytes(b""),
        lambda path: (path / "meta.json").unlink(),
        lambda path: (path / "meta.json").write_text('{"step": 5'),
        lambda path: (path / "meta.json").write_text("[]"),
        lambda path: (path / "meta.json").write_text("[" * 100_000),
    ],
    ids=["flipped", "missing file", "extra file", "no meta", "cut meta", "odd meta", "deep meta"],
)
def test_a_damaged_one_is_passed_over_and_kept(checkpoints, damage):
    save(checkpoints, 4)
    save(checkpoints, 5)
    damage(checkpoints.directory / "00000005")
    step, data, warnings = restored(checkpoints)
    assert (step, data) == (4, [b"4"])
    assert "00000005 is damaged" in warnings[0]
    assert (checkpoints.directory / "damaged-00000005").exists()
    assert checkpoints.steps() == [4]


def test_a_damaged_one_does_not_stop_the_next(checkpoints):
    for step in (3, 4):
        save(checkpoints, step)
    (checkpoints.directory / "00000003/meta.json").write_text("[]")
    save(checkpoints, 5)
    assert checkpoints.steps() == [4, 5]


def test_links_that_lead_in_circles_are_not_followed(checkpoints):
    save(checkpoints, 4)
    for name in "ab":
        (checkpoints.directory / "00000004/state" / name).symlink_to(".")
    assert restored(checkpoints)[0] == 4


def test_all_damaged_is_an_error(checkpoints):
    save(checkpoints, 4)
    (checkpoints.directory / "00000004/state/data").write_bytes(b"x")
    with pytest.raises(RunError, match="no checkpoint"):
        restored(checkpoints)


def test_leftovers_of_a_killed_process_are_cleared(checkpoints):
    save(checkpoints, 4)
    for step in (3, 5):
        (checkpoints.directory / f"{step:08d}/state").mkdir(parents=True)
        (checkpoints.directory / f"{step:08d}/unfinished").touch()
    assert checkpoints.steps() == [4]
    (checkpoints.directory / "00000009").mkdir()  # killed before the first file
    assert checkpoints.steps() == [4]
    again = Checkpoints(checkpoints.directory, 2, write)
    assert [path.name for path in again.directory.iterdir()] == ["00000004"]
    assert restored(again)[0] == 4


@pytest.mark.parametrize("at", range(6))
def test_one_that_is_half_cleared_is_no_checkpoint(checkpoints, monkeypatch, at):
    """Whatever is deleted first: the mark that it is none goes last."""
    save(checkpoints, 4)
    leftover = checkpoints.directory / "00000005"
    (leftover / "state").mkdir(parents=True)
    for name in ("unfinished", "meta.json", "state/data", "state/more"):
        (leftover / name).touch()
    calls, removing = iter(range(100)), {name: getattr(os, name) for name in ("unlink", "rmdir")}

    def killed(name, *args, **kwargs):
        if next(calls) == at:
            raise KeyboardInterrupt
        removing[name](*args, **kwargs)

    for name in removing:
        monkeypatch.setattr(os, name, functools.partial(killed, name))
    with contextlib.suppress(KeyboardInterrupt):
        Checkpoints(checkpoints.directory, 2, write)
    assert checkpoints.steps() == [4]


def test_a_failed_write_leaves_the_last_good_one(tmp_path):
    def full(directory, snapshot):
        if snapshot == b"5":
            (directory / "data").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(directory, snapshot)

    checkpoints = Checkpoints(tmp_path, 2, full)
    save(checkpoints, 4)
    checkpoints.save(5, b"5", {})
    with pytest.raises(RunError, match=r"No space left.*00000004"):
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["00000004"]
    save(checkpoints, 6)
    assert checkpoints.steps() == [4, 6]


def test_saving_goes_on_beside_training(tmp_path):
    release = threading.Event()

    def slow(directory, snapshot):
        release.wait(10)
        write(directory, snapshot)

    checkpoints = Checkpoints(tmp_path, 2, slow)
    checkpoints.save(1, b"1", {})
    assert checkpoints.steps() == []  # save returned while the writer waits
    release.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_the_same_step_can_be_saved_again(checkpoints):
    save(checkpoints, 4)
    checkpoints.save(4, b"new", {})
    checkpoints.wait()
    assert restored(checkpoints)[1] == [b"new"]
    files = json.loads((checkpoints.directory / "00000004/meta.json").read_text())["files"]
    assert list(files) == ["state/data"]
