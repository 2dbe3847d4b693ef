import contextlib
import functools
import json
import os
import threading
import time

import pytest

from alexnet import sealed
from alexnet.checkpoints import Checkpoints, read_meta
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


def test_every_flipped_bit_of_the_description_is_noticed(checkpoints):
    """None changes the step, a loss or a digest unseen."""
    save(checkpoints, 4, [0.5, -1.25])
    path = checkpoints.directory / "00000004"
    whole, data = read_meta(path), (path / "meta.json").read_bytes()
    silent = 0
    for place in range(8 * len(data)):
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        (path / "meta.json").write_bytes(bad)
        try:
            silent += read_meta(path) != whole
        except ValueError:
            continue
    assert silent == 0


def test_control_without_digests_flipped_bits_go_unseen(checkpoints, monkeypatch):
    monkeypatch.setattr(sealed, "digest", lambda *_, **__: "0")
    with pytest.raises(AssertionError):
        test_every_flipped_bit_of_the_description_is_noticed(checkpoints)


@pytest.mark.parametrize(
    "change",
    [
        {"step": None}, {"step": 5.0}, {"step": 6}, {"evals": {}}, {"evals": [1]},
        {"evals": [{"step": 1}]}, {"evals": [{"step": 1, "loss": "1", "top1": 1, "top5": 1}]},
        {"score": [None]}, {"num_classes": 0}, {"num_classes": True}, {"class_names": [1]},
        {"class_names": ["\ud800"]}, {"files": []}, {"log": 3}, {"data": []}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_whose_digest_is_right_is_not_trusted(checkpoints, change):
    save(checkpoints, 4)
    save(checkpoints, 5)
    path = checkpoints.directory / "00000005/meta.json"
    sealed.write(path, sealed.read(path) | change)
    assert restored(checkpoints)[0] == 4


def test_the_same_step_can_be_damaged_again(checkpoints):
    for _ in range(3):
        save(checkpoints, 4)
        save(checkpoints, 5)
        (checkpoints.directory / "00000005/state/data").write_bytes(b"x")
        assert restored(checkpoints)[0] == 4
    names = {path.name for path in checkpoints.directory.iterdir()}
    assert names == {"00000004", "damaged-00000005", "damaged-00000005-2", "damaged-00000005-3"}


def test_what_may_not_be_read_is_not_called_damaged(checkpoints, monkeypatch):
    save(checkpoints, 4)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("alexnet.checkpoints._digests", refused)
    with pytest.raises(RunError, match="00000004 can't be read: Permission denied"):
        restored(checkpoints)
    assert checkpoints.steps() == [4]


def test_names_in_other_scripts_are_no_steps(checkpoints):
    save(checkpoints, 4)
    for name in (
        "0000000\u0665",
        "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2",
        "5",
        "9" * 30,
    ):
        (checkpoints.directory / name).mkdir()
        (checkpoints.directory / name / "x").touch()
    assert checkpoints.steps() == [4]
    assert Checkpoints(checkpoints.directory, 2, write).steps() == [4]


def test_a_failed_write_is_noticed_without_waiting_for_the_next(tmp_path):
    def full(directory, snapshot):
        raise ValueError('RESOURCE_EXHAUSTED: "x" [OS error 28: No space left on device] and more')

    checkpoints = Checkpoints(tmp_path, 2, full)
    checkpoints.save(5, b"5", {})
    while not checkpoints._pending.done():
        time.sleep(0.01)
    with pytest.raises(RunError, match=r"could not be written .*: No space left on device;"):
        checkpoints.check()


def test_a_slow_disk_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet.checkpoints._SLOW", 0.05)
    notes = []

    def slow(directory, snapshot):
        while not notes:
            time.sleep(0.01)
        write(directory, snapshot)

    checkpoints = Checkpoints(tmp_path, 2, slow, note=notes.append)
    save(checkpoints, 1)
    assert "training waits" in notes[0]
    assert checkpoints.steps() == [1]


def test_an_evaluation_that_came_later_is_put_in(checkpoints):
    save(checkpoints, 4)
    checkpoints.amend(4, {"score": [0.5]})
    assert restored(checkpoints)[0] == 4
    assert read_meta(checkpoints.directory / "00000004")["score"] == [0.5]


def test_older_ones_that_a_killed_run_left_go_when_it_is_resumed(checkpoints):
    for step in (1, 2):
        save(checkpoints, step)
    more = Checkpoints(checkpoints.directory, 9, write)
    for step in (3, 4):
        save(more, step)
    assert restored(checkpoints)[0] == 4
    assert checkpoints.steps() == [1, 2, 3, 4]  # the run may still be refused
    checkpoints.forget_old()
    assert checkpoints.steps() == [3, 4]


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


def test_a_state_that_its_framework_cannot_read_is_a_sentence(checkpoints):
    """Whatever it raises; a mistake of this project's own stays a traceback."""
    save(checkpoints, 4)

    def raises(error):
        def read(path):
            raise error

        return read

    with pytest.raises(RunError, match="00000004 can't be read: odd words"):
        checkpoints.restore(raises(Exception("odd words\nand more")), print)
    with pytest.raises(TypeError):
        checkpoints.restore(raises(TypeError()), print)
