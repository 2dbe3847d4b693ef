"""Loading by processes: the same batches, and a sentence where a process or its memory fails."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from data_helpers import evaluating, make_config, training
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alexnet.data import workers
from alexnet.data.cache import Layout
from alexnet.data.cache_writer import Request, prepare
from alexnet.data.dataset import ArraySource, Dataset
from alexnet.data.pipeline import BadImages
from alexnet.data.shared import Slots, pack
from alexnet.data.sources import open_dataset
from alexnet.errors import RunError, UserError


def take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text(max_size=3), arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.int32]),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4)), max_size=4))  # fmt: skip
def test_arrays_arrive_as_they_were(sent):
    slots = Slots()
    for _ in range(2):
        got = slots.open(pack(sent, slots.take()))
        assert got.keys() == sent.keys()
        for name, array in sent.items():
            np.testing.assert_array_equal(got[name], array)
            assert got[name].dtype == array.dtype


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=30))
def test_memory_is_used_again_and_never_before_it_is_free(steps):
    slots, held = Slots(), []
    for number, (keep, size) in enumerate(steps):
        if not keep and held:
            held.pop(0)
        batch = slots.open(pack({"a": np.full(size, number)}, slots.take()))
        held.append((number, batch["a"][::2].reshape(-1)))  # a view of a view
        del batch
        for was, array in held:
            assert (array == was).all()
    held, array = [], None
    before = len(slots._slots)
    for _ in range(5):
        slots.open(pack({"a": np.zeros(9)}, slots.take()))
    assert len(slots._slots) == max(before, 1)
    assert len({slots.take(), slots.take()}) == 2  # those in a worker's hands are not free


def test_processes_change_nothing_in_batches(tmp_path):
    prepare(Request("digits", tmp_path / "c", Layout(size=18)), 1)
    for name in ("digits", f"cache:{tmp_path / 'c'}"):  # cut on the host, and whole
        threads = make_config(name, color_noise=0.1, batch_size=100)
        processes = make_config(name, color_noise=0.1, batch_size=100, loader_workers=2)
        data = threads.open_dataset()
        pairs = [take(training(data, each, 20), 3) for each in (threads, processes)]
        if name == "digits":
            pairs[0] += evaluating(data.eval, threads)
            pairs[1] += evaluating(data.eval, processes)
        for one, other in zip(*pairs, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


def test_unreadable_images_are_named(image_folder):
    root = image_folder(*(f"{part}/a/{i}.png" for part in ("train", "val") for i in range(4)))
    (root / "train/a/2.png").write_bytes(b"")
    data, bad = open_dataset(f"folder:{root}"), BadImages()
    skipping = make_config("x", batch_size=4, loader_workers=1, on_bad_image="skip")
    (batch,) = take(training(data, skipping, bad_images=bad), 1)
    assert batch["mask"].sum() == 3
    assert bad.sentences == [f"{root}/train/a/2.png: the file is empty"]
    stopping = make_config("x", batch_size=4, loader_workers=1)
    with pytest.raises(UserError, match=r"2\.png can't be read: the file is empty"):
        next(training(data, stopping))


class Killed(ArraySource):
    """A source at whose example 5 the system ends the process."""

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_dies_is_a_sentence():
    source = Killed("killed", np.zeros((16, 4, 4), np.uint8), np.zeros(16, int))
    batches = evaluating(source, make_config(batch_size=2, image_size=4, loader_workers=2))
    with pytest.raises(RunError, match="a worker process has died, killed perhaps"):
        list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_leaves_the_workers_to_their_parent(number):
    code = (
        "import os, signal, time; from alexnet.data.workers import in_processes\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "found = in_processes(time.sleep, [0] + 10 * [0.1], 2)\n"
        "print(next(found), flush=True); input()\n"
        "print(len(list(found)), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "None\n"
    os.killpg(process.pid, number)
    out, _ = process.communicate("\n", timeout=60)
    assert out == "10\n"


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along():
    code = (
        "import time, multiprocessing; from alexnet.data.workers import in_processes\n"
        "found = in_processes(time.sleep, [0, 100, 100, 100, 100], 2)\n"
        "next(found)\n"
        "print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "next(found)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_runs(pid) for pid in pids):
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sources_can_be_sent(tmp_path, tfds_dir):
    prepare(Request("digits", tmp_path / "c", Layout("jpeg", 8, 1)), 1)
    for name in (f"cache:{tmp_path / 'c'}", "tfds:cifar10_jpeg"):
        data = open_dataset(name, data_dir=tfds_dir)
        for source in (data.train, data.eval):
            sent = pickle.loads(pickle.dumps(source))
            assert sent[7] == source[7]
            assert sent.describe(7) == source.describe(7)


def test_control_every_batch_comes_from_a_process(monkeypatch):
    """Were `workers` ignored, the tests above would say nothing."""
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    data = Dataset("d", *2 * [ArraySource("a", np.zeros((9, 4, 4), np.uint8), np.zeros(9, int))],
                   ("a",))  # fmt: skip
    config = make_config(batch_size=2, image_size=4, loader_workers=2)
    with pytest.raises(TypeError):
        next(training(data, config))
