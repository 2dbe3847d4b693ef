"""`alexnet bench`: its processes, what is made of times, and the command."""

import contextlib
import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet import cli
from alexnet.bench import measure, peak, worker
from alexnet.bench.child import Child
from alexnet.bench.conditions import conditions
from alexnet.bench.job import Job
from alexnet.bench.measure import Timing
from alexnet.bench.network import batches
from alexnet.bench.run import compare
from alexnet.data.augment import Augmentation
from alexnet.data.dataset import ArraySource
from alexnet.errors import RunError, UserError
from alexnet.report.bench import print_benchmark
from alexnet_torch import plain_input

SMALL = {"image_size": 67, "width": 1 / 16, "batch_size": 2}
OPTIONS = [
    "--image-size", "67", "--width", "0.0625", "--batch-size", "2", "--blocks", "1",
    "--block-seconds", "0.02",
]  # fmt: skip
READING = Job("input", batch_size=2, image_size=67)


# --- processes ------------------------------------------------------------------------------------


def test_a_child_that_dies_is_told_of():
    with Child(READING) as child:
        assert child.run("step", 1)["seconds"] > 0
        os.kill(child.process_id, signal.SIGKILL)
        with pytest.raises(RunError, match="'input' was ended by SIGKILL, as the system does"):
            child.run("step", 1)


def test_a_child_that_fails_leaves_its_last_words():
    with Child(READING) as child, pytest.raises(RunError, match="ended with code 1: KeyError: 'x'"):
        child.run("x", 1)


def test_a_child_ends_with_its_input_in_the_middle_of_a_step():
    child = Child(READING)
    process = child._process
    process.stdin.write('{"part": "step", "steps": 1000000000}\n')
    child.close()
    assert process.returncode == 0  # not killed


def test_mistakes_reach_the_parent():
    with pytest.raises(UserError, match="1,024 training examples"):
        Child(dataclasses.replace(READING, batch_size=5000))


def test_what_does_not_compile_is_no_failure(monkeypatch):
    def fail(job):
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(worker, "_parts", fail)
    job = Job("train", "plain, compiled", "torch")
    assert worker._prepare(job) == (
        {},
        {"unavailable": "torch.compile failed: no C++ compiler"},
    )
    with pytest.raises(RuntimeError):
        worker._prepare(dataclasses.replace(job, kind="plain"))


def test_the_engines_own_sentence_on_its_compiler_is_not_said_twice(monkeypatch):
    def fail(job):
        raise RunError("torch.compile failed: no C++ compiler; install one")

    monkeypatch.setattr(worker, "_parts", fail)
    found = worker._prepare(Job("train", "ours, compiled", "torch"))
    assert found == ({}, {"unavailable": "torch.compile failed: no C++ compiler; install one"})


@pytest.mark.parametrize(("what", "untimed"), [("input", 8), ("train", 0)])
def test_what_a_pipeline_made_ahead_is_not_timed(what, untimed, monkeypatch):
    taken, job = [], Job(what, loader_threads=3)
    monkeypatch.setattr(worker, "_timed", lambda run, steps: taken.append(("timed", steps)))
    worker._answer({"part": "step", "steps": 5}, {"step": lambda n: taken.append(("not", n))}, job)
    assert taken == [("not", untimed)] * bool(untimed) + [("timed", 5)]


# --- numbers --------------------------------------------------------------------------------------


class Clock:
    """A contender that takes the same time for each step; `log` has who ran when."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, part, steps):
        self.log.append((self.name, steps))
        seconds = steps * self.seconds
        return {"seconds": seconds, "user": 2 * seconds, "system": 0.0, "faults": steps}


def test_contenders_take_turns():
    log = []
    children = [Clock("a", 0.5, log), Clock("b", 0.25, log)]
    timings = measure.measure(children, "step", blocks=3, block_seconds=2.0)
    assert log == [("a", 1)] * 3 + [("b", 1)] * 3 + [
        ("a", 4), ("b", 8), ("b", 8), ("a", 4), ("a", 4), ("b", 8),
    ]  # fmt: skip
    assert measure.ratios(timings["b"], timings["a"]) == {"median": 2, "min": 2, "max": 2}
    found = measure.summary(timings["a"], 32, "images")
    assert (found["images_per_second"], found["milliseconds_per_step"]) == (64, 500)
    assert (found["user_seconds_per_step"], found["page_faults_per_step"]) == (1, 1)


def test_batches_made_ahead_do_not_make_a_block_endless():
    """The first steps of each run took no time: they were ready."""

    class Ready(Clock):
        def run(self, part, steps):
            return super().run(part, max(0, steps - 4))

    timing = measure.measure([Ready("a", 0.01, [])], "step", blocks=1, block_seconds=2.0)["a"]
    assert 200 <= timing.steps <= 300


SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


@given(SECONDS, st.integers(1, 100))
def test_a_median_lies_between_the_least_and_the_most(seconds, steps):
    timing = Timing(steps, [{"seconds": s, "user": s, "system": s, "faults": 0} for s in seconds])
    found = measure.summary(timing, 8, "images")
    low, middle, high = (found[f"milliseconds_{name}"] for name in ("min", "per_step", "max"))
    assert low <= middle <= high
    assert found["images_per_second"] == pytest.approx(8e3 / middle)
    alike = measure.ratios(timing, timing)
    assert alike == {"median": 1, "min": 1, "max": 1}


def test_the_peak_is_that_of_the_best_size(monkeypatch):
    """A machine of 1 GFLOP/s, but for products of 1024, where it has 2."""
    seen = []

    def matrix_product(size, precision):
        seen.append(size)
        return lambda count: size

    def seconds(run, count):
        size = run(count)
        return count * 2 * size**3 / (2e9 if size == 1024 else 1e9)

    monkeypatch.setattr(peak, "_seconds", seconds)
    assert peak.peak_rate(matrix_product, "fp32", budget=3.0) == pytest.approx(2e9)
    assert seen == [256, 512, 1024]  # one product of 1024 takes over a quarter of the budget


# --- the command ----------------------------------------------------------------------------------

KEYS = {
    "images_per_second", "milliseconds_per_step", "blocks", "peak_matmul_gflops", "share_of_peak",
    "peak_memory_bytes", "conditions", "contenders", "job",
}  # fmt: skip


def test_ours_beside_plain():
    job = Job("train", "ours", "torch", **SMALL)
    said = []
    found = compare([job, dataclasses.replace(job, kind="plain")], 2, 0.02, said.append)
    ours, plain = found["contenders"]
    assert (ours["name"], plain["name"]) == ("torch", "plain torch")
    assert found["images_per_second"] == ours["images_per_second"] > 0
    assert set(ours["times_as_fast_as"]) == {"plain torch"}
    assert len(found["blocks"]) == 2
    assert said[:2] == ["torch: preparing", "plain torch: preparing"]


def test_json_of_jax(capsys):
    assert cli.main(["bench", "--framework", "jax", "--what", "infer", *OPTIONS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == KEYS
    (row,) = found["contenders"]
    assert (row["name"], row["kind"], row["device"]["platform"]) == ("jax", "ours", "cpu")
    assert found["share_of_peak"] > 0
    assert found["peak_memory_bytes"] > 1e8  # JAX itself
    assert found["conditions"]["packages"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("input --dataset digits", ["input, digits", "images/s"]),
        ("input --dataset digits --against plain", ["input is ", "times as fast as plain torch"]),
        ("convert", ["torch to safetensors", "MB/s"]),
    ],
)
def test_tables(what, words, capsys):
    assert cli.main(["bench", "--what", *what.split(), *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in [*words, "cores", "numpy"])


@pytest.mark.parametrize("crop", ["random", "area"])
def test_plain_views_are_parts_of_the_images(crop):
    """Rows and columns are told by the first two channels, and go on by one, or evenly."""
    rows, columns = np.mgrid[:48, :64]
    image = np.stack([rows * 4, columns * 4, rows], axis=-1).astype(np.uint8)
    source = ArraySource("s", image[None], np.array([3]))
    augmentation = Augmentation(size=24, resize_to=48, crop=crop, flip=True)
    views, seen = plain_input.Views(source, augmentation), set()
    for _ in range(40):
        view, label = views[0]
        assert (view.shape, view.dtype, label) == ((24, 24, 3), torch.uint8, 3)
        down, along = (view.int().diff(dim=axis)[..., axis] for axis in (0, 1))
        assert (down >= 0).all()
        assert (along >= 0).all() or (along <= 0).all()
        if crop == "random":
            assert (down == 4).all()
            assert (along.abs() == 4).all()
        seen.add((int(view[0, 0, 0]), int(view[0, 0, 1]), bool((along >= 0).all())))
    assert len(seen) > 20
    assert {mirrored for _, _, mirrored in seen} == {True, False}


def test_a_row_without_numbers(capsys):
    job = Job("train", framework="torch")
    absent = {
        "name": "plain torch, compiled", "note": "", "framework": "torch", "device": {},
        "unavailable": "torch.compile failed: [no] compiler",
    }  # fmt: skip
    kept = {"blocks": 1, "block_seconds": 3.0}
    print_benchmark({"job": vars(job) | kept, "contenders": [absent], "conditions": conditions()})
    printed = capsys.readouterr().out
    assert "train, 'torchvision', batch 32, fp32: median of 1 block of 3 s" in printed
    assert "plain torch, compiled: torch.compile failed: [no] compiler\n" in printed


def test_a_variant_brings_its_own_recipe():
    """CIFAR's images are taken whole; by the paper's recipe they were enlarged on the host."""
    data = Job("input", variant="cifar_18pct").config.data
    assert (data.resize_to, data.flip) == (32, False)


def test_training_while_it_reads(capsys):
    """The fixed batches are the data set's first; only that contender is compared with itself."""
    job = Job("train", dataset="digits", framework="torch", **SMALL | {"num_classes": 10})
    fixed, reading = (batches(dataclasses.replace(job, kind=k)) for k in ("ours", "ours, reading"))
    with contextlib.closing(reading):
        ours, others = ([next(each) for _ in range(5)] for each in (fixed, reading))
    assert [(a["example"] == b["example"]).all() for a, b in zip(ours, others, strict=True)] == [
        True, True, False, False, False,
    ]  # fmt: skip
    np.testing.assert_array_equal(ours[1]["image"], others[1]["image"])
    argv = ["bench", "--framework", "torch", "--dataset", "digits", "--num-classes", "10", "--json"]
    assert cli.main([*argv, *OPTIONS]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["contenders"]}
    assert {name: [*row["times_as_fast_as"]] for name, row in rows.items()} == {
        "torch": [],
        "torch, reading": ["torch"],
    }


@pytest.mark.slow
def test_all_six_contenders(capsys):
    options = ["--framework", "both", "--against", "plain", "--compile"]
    assert cli.main(["bench", *options, *OPTIONS]) == 0
    printed = capsys.readouterr().out
    for plain in ("plain jax", "plain torch", "plain torch, compiled"):
        for ours in ("jax", "torch", "torch, compiled"):
            assert f"{ours} is " in printed
            assert f" times as fast as {plain} (" in printed
    assert "jax is " in printed.split(" times as fast as torch (")[0]


@pytest.mark.slow
def test_layers_of_both_side_by_side(capsys):
    options = ["--framework", "both", "--against", "plain", "--layers", "--variant", "paper"]
    assert cli.main(["bench", *options, *OPTIONS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {"jax", "torch", "plain jax", "plain torch"}
    assert {row["name"] for row in found["contenders"]} == names
    assert all(row["contenders"].keys() == names for row in found["layers"])
