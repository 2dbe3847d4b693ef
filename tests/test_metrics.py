"""The log of a run: what is in it, and what is noticed when it isn't as it was."""

import json
import os
import re
import struct

import numpy as np
import pytest

from alexnet import metrics
from alexnet.errors import RunError, UserError

RECORDS = [
    {"step": step, "split": split, "loss": 2.5 / step, "top1": 0.25, "examples_per_second": 1e3}
    for step in range(1, 9)
    for split in (("train", "eval") if step % 4 == 0 else ("train",))
]


@pytest.fixture
def log(tmp_path):
    log = metrics.MetricsLog(tmp_path, [])
    for record in RECORDS:
        log.write(record)
    log.close()
    return log


def test_lines_are_plain_records(log, tmp_path):
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == RECORDS == metrics.read(tmp_path)


def test_every_flipped_bit_is_noticed(log, tmp_path):
    """All but those that change no number, in the last digit of many."""
    file = tmp_path / "metrics.jsonl"
    data = file.read_bytes()
    random = np.random.default_rng(0)
    for place in random.permutation(8 * len(data))[:400].tolist():
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        file.write_bytes(bad)
        try:
            same = metrics.read(tmp_path) == RECORDS
        except UserError as error:
            same, message = False, str(error)
        if same:
            continue
        assert re.search(r"metrics\.jsonl, line \d+ is not", message)
        assert "metrics.jsonl" in metrics.kept(tmp_path, 8, log.digest)[1]


def test_a_line_that_is_being_written_is_left_out(log, tmp_path):
    """Its digest comes after it; a reader may see either half."""
    file, digests = tmp_path / "metrics.jsonl", tmp_path / "metrics.digests"
    data, known = file.read_bytes(), digests.read_bytes()
    for cut in range(1, 90):
        file.write_bytes(data[:-cut])
        assert metrics.read(tmp_path) in (RECORDS, RECORDS[:-1])
    file.write_bytes(data)
    for cut in range(1, 18):
        digests.write_bytes(known[:-cut])
        assert metrics.read(tmp_path) == RECORDS
    digests.write_bytes(known[:-18])
    with pytest.raises(UserError, match="line 9 is not as it was"):
        metrics.read(tmp_path)


def test_a_resumed_run_keeps_the_lines_before_its_checkpoint(log, tmp_path):
    """To the line, not to the step: an evaluation of that step may have come after it."""
    part = metrics.MetricsLog(tmp_path / "..", RECORDS[:4])
    part.close()
    kept, problem = metrics.kept(tmp_path, 4, part.digest)
    assert (kept, problem) == (RECORDS[:4], "")  # without the evaluation of step 4
    assert metrics.kept(tmp_path, 4, "") == ([], "")
    assert metrics.kept(tmp_path, 4, None) == (RECORDS[:5], "")  # of an earlier version


@pytest.mark.parametrize("lines", [0, 3, 9])
def test_lines_that_are_gone_are_told_of(lines, log, tmp_path):
    file = tmp_path / "metrics.jsonl"
    text = "".join(file.read_text().splitlines(keepends=True)[:lines])
    file.write_text(text)
    kept, problem = metrics.kept(tmp_path, 8, log.digest)
    assert kept == RECORDS[:lines]
    assert f"is kept as metrics-damaged.jsonl, and the log goes on with the {lines}" in problem
    assert (tmp_path / "metrics-damaged.jsonl").read_text() == text
    file.unlink()
    assert "goes on with the 0 lines" in metrics.kept(tmp_path, 8, log.digest)[1]


def test_a_run_of_an_earlier_version_has_no_digests(log, tmp_path):
    (tmp_path / "metrics.digests").unlink()
    assert metrics.read(tmp_path) == RECORDS


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
def test_what_is_no_file_is_not_read(make, tmp_path):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="not a regular file"):
        metrics.read(tmp_path)


def test_a_full_disk_is_a_sentence_at_once(tmp_path):
    """/dev/full stands for it; the events' thread of tensorboardX would have hung training."""
    for name in ("_file", "_digests"):
        log = metrics.MetricsLog(tmp_path, [])
        with open("/dev/full", "wb", buffering=0) as full:
            setattr(log, name, full)
            with pytest.raises(RunError, match="can't be written: No space left on device"):
                log.write(RECORDS[0])
    log = metrics.MetricsLog(tmp_path, [])
    with open("/dev/full", "wb") as full:
        log._events._writer._py_recordio_writer._writer = full
        for record in RECORDS:
            log.write(record)
        with pytest.raises(RunError, match="No space left on device"):
            log.flush()
        with pytest.raises(RunError):
            log.close()


def test_events_of_steps_that_are_trained_again_count_no_more(log, tmp_path):
    """TensorBoard drops them where a file begins with the step from which it goes on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(tmp_path / "first")
    metrics.MetricsLog(tmp_path, RECORDS[:2]).close()
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.??*")
    data, events = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    (start,) = [event for event in events if event.HasField("session_log")]
    assert (start.step, start.session_log.status) == (3, SessionLog.START)
