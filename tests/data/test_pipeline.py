import dataclasses
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import evaluating, make_config, training
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.augment import eval_view, train_numbers, train_view
from alexnet.data.dataset import ArraySource, Dataset
from alexnet.data.images import BadImage, decode
from alexnet.data.pipeline import BadImages, eval_batches, steps_per_epoch, train_batches
from alexnet.draws import order
from alexnet.errors import UserError


def numbered(count):
    """A source whose example i is labelled i, so that batches tell what is in them."""
    images = np.arange(count, dtype=np.uint64)[:, None] * np.arange(1, 17, dtype=np.uint64)
    return ArraySource("numbered", images.astype(np.uint8).reshape(-1, 4, 4), np.arange(count))


def numbered_dataset(train, held_out=4):
    source = numbered(train)
    return Dataset("numbered", source, numbered(held_out), tuple(map(str, range(train))))


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


# --- training ----------------------------------------------------------------------------------


def test_batch_layout():
    config = make_config(color_noise=0.1)
    (batch,) = take(training(config.open_dataset(), config), 1)
    layout = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert layout == {
        "image": ((8, 16, 16, 3), "uint8"),
        "label": ((8,), "int32"),
        "mask": ((8,), "float32"),
        "example": ((8,), "int32"),
        "color_shift": ((8, 3), "float32"),
    }
    assert batch["mask"].all()
    gray = make_config(channels=1)
    (batch,) = take(training(gray.open_dataset(), gray), 1)
    assert batch["image"].shape == (8, 16, 16, 1)
    assert "color_shift" not in batch


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 30), seed=st.integers(0, 9))
def test_an_epoch_has_each_example_at_most_once_in_the_order_given(count, size, seed):
    size = min(size, count)
    data, config = numbered_dataset(count), make_config(batch_size=size, seed=seed, image_size=4)
    per_epoch = steps_per_epoch(data, config.data.batch_size)
    assert per_epoch == count // size
    labels = [batch["label"] for batch in take(training(data, config), 2 * per_epoch)]
    for epoch in range(2):
        seen = np.concatenate(labels[epoch * per_epoch : (epoch + 1) * per_epoch])
        np.testing.assert_array_equal(seen, order(count, seed, epoch)[: per_epoch * size])


def test_batches_hold_the_views_of_their_examples():
    config = make_config(color_noise=0.1, seed=3)
    data = config.open_dataset()
    per_epoch = steps_per_epoch(data, config.data.batch_size)
    (batch,) = take(training(data, config, per_epoch + 2), 1)  # epoch 1, third batch
    for row, index in enumerate(order(len(data.train), 3, 1)[16:24].tolist()):
        image, label = data.train[index]
        crop, shift = train_view(decode(image, 3), config.augmentation, 3, 1, index)
        np.testing.assert_array_equal(batch["image"][row], crop)
        np.testing.assert_array_equal(batch["color_shift"][row], shift)
        assert batch["label"][row] == label
        assert batch["example"][row] == index


@pytest.mark.parametrize("crop", ["random", "area"])
def test_threads_change_nothing(crop):
    one, four = (
        make_config(loader_threads=threads, train_crop=crop, color_noise=0.1, batch_size=32)
        for threads in (1, 4)
    )
    data = one.open_dataset()
    assert_equal_batches(take(training(data, one), 60), take(training(data, four), 60))
    assert_equal_batches(list(evaluating(data.eval, one)), list(evaluating(data.eval, four)))


@pytest.mark.parametrize("step", [1, 5, 6, 17])
def test_resuming_equals_never_having_stopped(step):
    data, config = numbered_dataset(25), make_config(batch_size=4, image_size=4, color_noise=0.1)
    whole = take(training(data, config), step + 8)
    assert_equal_batches(take(training(data, config, step), 8), whole[step:])


def test_resuming_reads_nothing_that_was_skipped():
    read = []

    class Watched(ArraySource):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = numbered(40)
    data = Dataset("watched", Watched("w", source.images, source.labels), source, ("a",) * 40)
    config = make_config(batch_size=4, image_size=4, loader_threads=1)
    take(training(data, config, 10_007), 1)
    epoch, place = divmod(10_007, 10)
    assert read[:4] == order(40, 0, epoch)[place * 4 : place * 4 + 4].tolist()
    assert len(read) <= 4 * 4  # what was asked for, and what is read ahead


def test_seeds_differ():
    data = numbered_dataset(50)
    first, second = (
        take(training(data, make_config(seed=seed, image_size=4)), 1)[0] for seed in (0, 1)
    )
    assert not np.array_equal(first["label"], second["label"])


@pytest.mark.parametrize(("sizes", "purpose"), [((0, 4), "train"), ((4, 0), "evaluate")])
def test_a_part_without_examples_is_refused(sizes, purpose):
    with pytest.raises(UserError, match=f"'made up' has no examples to {purpose} on"):
        Dataset("made up", *map(numbered, sizes), ("a",))


def test_batch_larger_than_the_training_set():
    data, config = numbered_dataset(7), make_config(batch_size=8)
    with pytest.raises(UserError, match="only 7 training examples: give --batch-size 7 or less"):
        training(data, config)  # at once, not at the first batch


# --- evaluation --------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), size=st.integers(1, 17), threads=st.integers(1, 3))
def test_evaluation_covers_each_example_once(count, size, threads):
    config = make_config(batch_size=size, image_size=4, loader_threads=threads)
    batches = list(evaluating(numbered(count), config))
    assert len(batches) == math.ceil(count / size)
    seen = [label for batch in batches for label in batch["label"][batch["mask"] == 1]]
    assert seen == list(range(count))
    examples = [number for batch in batches for number in batch["example"]]
    assert examples == [*range(count), *[-1] * (len(batches) * size - count)]
    for batch in batches:
        assert batch["image"].shape == (size, 4, 4, 3)
        assert not batch["image"][batch["mask"] == 0].any()


def test_evaluation_shows_the_center():
    config = make_config()
    data = config.open_dataset()
    batch = next(evaluating(data.eval, config))
    expected = eval_view(decode(data.eval[5][0], 3), config.preprocess.protocol)
    np.testing.assert_array_equal(batch["image"][5], expected)


def test_evaluation_in_another_channel_order():
    config = make_config("synthetic")
    source, protocol = config.open_dataset().eval, config.preprocess.protocol
    loading = dataclasses.replace(config.loading(), whole=False)
    rgb = next(eval_batches(source, protocol, loading))
    bgr = next(eval_batches(source, protocol, loading, channel_order="BGR"))
    np.testing.assert_array_equal(bgr["image"], rgb["image"][..., ::-1])
    assert not np.array_equal(bgr["image"], rgb["image"])


# --- bad images --------------------------------------------------------------------------------


@pytest.fixture
def damaged(image_folder):
    root = image_folder(*[f"{split}/{name}/{i}.jpg" for split in ("train", "val")
                          for name in "ab" for i in range(6)])  # fmt: skip
    for split in ("train", "val"):
        path = root / split / "a" / "3.jpg"
        path.write_bytes(path.read_bytes()[:-20])
        (root / split / "b" / "4.jpg").write_bytes(b"")
    return root


def damaged_config(root, **data):
    return make_config(f"folder:{root}", image_size=8, batch_size=4, **data)


def test_bad_images_stop_a_run(damaged):
    config = damaged_config(damaged)
    data = config.open_dataset()
    with pytest.raises(UserError, match=r"train.(a.3|b.4)\.jpg can't be read: .*; --on-bad-image"):
        take(training(data, config), 3)
    with pytest.raises(UserError, match=r"val.a.3\.jpg can't be read: .*truncated"):
        list(evaluating(data.eval, config))


def test_bad_images_are_skipped_counted_and_named_once(damaged):
    config = damaged_config(damaged, on_bad_image="skip", color_noise=0.1, loader_threads=3)
    data, bad = config.open_dataset(), BadImages()
    epochs = take(training(data, config, bad_images=bad), 9)  # three epochs
    assert len(bad) == 2
    assert sum(batch["mask"].sum() for batch in epochs) == 3 * 10
    for batch in epochs:
        left_out = batch["mask"] == 0
        assert not batch["image"][left_out].any()
        assert not batch["color_shift"][left_out].any()
    named = bad.take_new()
    assert sorted(name.split(":")[0][-10:-4] for name in named) == ["in/a/3", "in/b/4"]
    assert any("the file is empty" in name for name in named)
    assert bad.take_new() == []
    assert sorted(bad.sentences) == sorted(named)


def test_evaluation_accounts_for_every_example(damaged):
    config = damaged_config(damaged, on_bad_image="skip")
    data, bad = config.open_dataset(), BadImages()
    for _ in range(2):  # a second evaluation with the same recorder counts none twice
        total = sum(batch["mask"].sum() for batch in evaluating(data.eval, config, bad))
        assert total + len(bad) == len(data.eval)


def test_an_image_that_was_left_out_keeps_its_number(damaged):
    config = damaged_config(damaged, on_bad_image="skip")
    batches = list(evaluating(config.open_dataset().eval, config))
    left_out = [
        number
        for batch in batches
        for number in batch["example"][(batch["mask"] == 0) & (batch["example"] >= 0)]
    ]
    assert left_out == [3, 10]


def test_recorder_is_safe_to_share():
    bad = BadImages()
    threads = [
        threading.Thread(target=lambda: [bad.add(i, f"file {i}", "broken") for i in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bad) == 500
    assert bad.sentences == [f"file {i}: broken" for i in range(500)]


# --- threads -----------------------------------------------------------------------------------


class Slow(ArraySource):
    """A source that takes its time, and fails at example 5."""

    def __getitem__(self, index):
        time.sleep(0.01)
        if index == 5:
            raise BadImage("it is broken")
        return super().__getitem__(index)


def slow_source(count=64):
    source = numbered(count)
    return Slow("slow", source.images, source.labels)


def test_errors_come_at_their_place():
    config = make_config(batch_size=1, image_size=4, loader_threads=4)
    batches = evaluating(slow_source(), config)
    labels = [next(batches)["label"][0] for _ in range(5)]
    assert labels == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="example 5 of slow can't be read: it is broken"):
        next(batches)


def test_other_errors_keep_their_type():
    class Failing(ArraySource):
        def __getitem__(self, index):
            raise ZeroDivisionError("of the source")

    source = numbered(4)
    failing = Failing("failing", source.images, source.labels)
    with pytest.raises(ZeroDivisionError, match="of the source"):
        next(evaluating(failing, make_config(image_size=4)))


def test_threads_load_ahead_but_not_far():
    read = []

    class Watched(ArraySource):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = numbered(400)
    watched = Watched("watched", source.images, source.labels)
    config = make_config(batch_size=4, image_size=4, loader_threads=2)
    batches = evaluating(watched, config)
    next(batches)
    deadline = time.monotonic() + 10  # the network trains meanwhile
    while len(read) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 20  # the batch that was asked for, and four ahead
    batches.close()


def test_a_process_has_its_rows_and_reads_no_others():
    source, read = numbered(30), []

    class Watched(ArraySource):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    config = make_config(batch_size=8, image_size=4, color_noise=0.1)
    own, names = np.array([1, 2, 6]), tuple(map(str, range(30)))
    for make in (
        lambda images, rows: take(training(Dataset("n", images, images, names), config,
                                       rows=rows), 5),
        lambda images, rows: list(evaluating(images, config, rows=rows)),
    ):  # fmt: skip
        whole = make(source, None)
        read.clear()
        part = make(Watched("watched", source.images, source.labels), own)
        cut = [{name: array[own] for name, array in batch.items()} for batch in whole]
        assert_equal_batches(part, cut)
        assert len(read) <= 3 * (5 + config.data.loader_threads * 2 + 2)
    assert len(read) == 11  # of 30 images in batches of 8: 3 + 3 + 3 + 2


def test_closing_drops_what_was_not_begun():
    read, go_on = [], threading.Event()

    class Waiting(ArraySource):
        def __getitem__(self, index):
            read.append(index)
            assert index == 0 or go_on.wait(10)
            return super().__getitem__(index)

    source = numbered(40)
    waiting = Waiting("waiting", source.images, source.labels)
    batches = evaluating(waiting, make_config(batch_size=1, image_size=4, loader_threads=1))
    next(batches)
    while len(read) < 2:
        time.sleep(0.001)
    start = time.monotonic()
    batches.close()  # comes back although a thread is still at work
    assert time.monotonic() - start < 5
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            thread.join(10)
    assert read == [0, 1]


def test_nothing_is_read_before_the_first_batch_and_no_thread_outlives_the_last():
    before = set(threading.enumerate())
    batches = evaluating(numbered(10), make_config(batch_size=4, image_size=4))
    assert set(threading.enumerate()) == before
    assert len(list(batches)) == 3
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_after_an_error_there_are_no_more_batches():
    batches = evaluating(slow_source(), make_config(batch_size=8, image_size=4))
    with pytest.raises(UserError):
        next(batches)
    assert list(batches) == []


def test_leaving_early_does_not_hang():
    code = """
import time, numpy as np
from data_helpers import make_config, training
from alexnet.data.dataset import ArraySource, Dataset
class Slow(ArraySource):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)
source = Slow("slow", np.zeros((100, 4, 4), np.uint8), np.zeros(100, int))
batches = training(Dataset("slow", source, source, ("a",)), make_config(image_size=4))
next(batches)
"""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, env=child_env())
    assert time.perf_counter() - start < 12


def child_env():
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"}


@pytest.mark.parametrize("whole", [True, False], ids=["cut on the device", "cut here"])
def test_examples_of_a_chunk_share_place_and_mirroring(whole):
    """As in the authors' convdata.py: 32 in a row of the epoch's order; each has its own noise."""
    config = make_config(color_noise=0.1, seed=3, crop_chunk=4, batch_size=16, flip=True)
    data = config.open_dataset()
    loading = dataclasses.replace(config.loading(), whole=whole)
    batches = train_batches(data, config.augmentation, loading, seed=3)
    batch = next(batches)
    batches.close()
    plain = dataclasses.replace(config.augmentation, crop_chunk=1)
    for row, index in enumerate(batch["example"].tolist()):
        leader = int(batch["example"][row - row % 4])
        numbers = train_numbers(plain, 3, 0, np.array([leader]))
        own = train_numbers(plain, 3, 0, np.array([index]))
        np.testing.assert_array_equal(batch["color_shift"][row], own["color_shift"][0])
        if "crop" in batch:
            np.testing.assert_array_equal(batch["crop"][row], numbers["crop"][0])
            assert batch["flip"][row] == numbers["flip"][0]
        else:
            view, _ = train_view(decode(data.train[index][0], 3), plain, 3, 0, index, leader)
            np.testing.assert_array_equal(batch["image"][row], view)


def test_noise_ends_and_with_it_its_scale():
    config = make_config(color_noise=0.25, color_noise_until=1.0, color_noise_shrink=True)
    data = config.open_dataset()
    per_epoch = steps_per_epoch(data, config.data.batch_size)
    noisy, quiet = (take(training(data, config, step), 1)[0] for step in (0, per_epoch))
    assert noisy["color_shift"].any()
    assert not quiet["color_shift"].any()
    np.testing.assert_array_equal(noisy["color_scale"], np.full(8, 0.8, np.float32))
    np.testing.assert_array_equal(quiet["color_scale"], np.ones(8, np.float32))
