"""`python train.py` as a user meets it: results, stopping, resuming, and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from alexnet import metrics
from alexnet.weights import load
from tests.conftest import NARROW, ROOT, records, run_train

FRAMEWORKS = ("jax", "torch")
RUN = (*NARROW, "--flip", "--color-noise", "0.1", "--warmup-steps", "5", "--learning-rate", "0.05",
       "--steps", "40", "--eval-every", "9", "--checkpoint-every", "7")  # fmt: skip


@pytest.fixture(scope="module", params=FRAMEWORKS)
def finished(request, tmp_path_factory):
    """An uninterrupted run: framework, work directory, output."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    result = run_train("--framework", request.param, *RUN, "--workdir", path)
    return request.param, path, result.stdout


def test_a_run_leaves_what_it_promises(finished):
    framework, path, output = finished
    for name in ("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "curve.png"):
        assert (path / name).exists(), name
    with Image.open(path / "curve.png") as image:
        assert image.format == "PNG"
        assert image.width > 500
    assert any((path / "tensorboard").iterdir())
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    keys = {"step", "split", "loss", "top1", "top5", "learning_rate", "examples_per_second"}
    assert all(keys <= line.keys() for line in lines)
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 41))
    evals = [line for line in lines if line["split"] == "eval"]
    assert [line["step"] for line in evals] == [9, 18, 27, 36, 40]
    assert {line["count"] for line in evals} == {359}
    last = output.splitlines()[-1]
    assert last.startswith(f"test top-1 {100 * evals[-1]['top1']:.2f} %")
    assert framework in output
    assert load(path / "weights.safetensors").spec.num_classes == 10


def test_checkpoints_kept_are_the_last_two_and_the_best(finished):
    _, path, _ = finished
    steps = sorted(int(p.name) for p in (path / "checkpoints").iterdir())
    assert steps[-2:] == [35, 40]
    assert len(steps) <= 3


def wait_for_step(path, process, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = path / "metrics.jsonl"
        if file.exists() and f'"step": {step}, "split": "train"' in file.read_text():
            return
        assert process.poll() is None, "ended early"
        time.sleep(0.01)
    raise AssertionError("too slow")


def start(framework, path, *options):
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--framework", framework, "--workdir", path, *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip


def test_killed_and_resumed_is_bit_for_bit_the_same(finished, tmp_path):
    framework, whole, _ = finished
    path = tmp_path / "run"
    process = start(framework, path, *RUN)
    wait_for_step(path, process, 16)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    # past the killed run's last line, so that it is the resumed run that is seen
    reached = metrics.read(path)[-1]["step"]
    process = start(framework, path, "--resume")
    wait_for_step(path, process, max(25, reached + 2))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "going on from the checkpoint" in output
    assert "--resume" in output.splitlines()[-1]

    run_train("--framework", framework, "--workdir", path, "--resume")
    assert records(path) == records(whole)
    ours, theirs = (load(p / "weights.safetensors").arrays for p in (path, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_control_another_seed_is_another_run(finished, tmp_path):
    framework, whole, _ = finished
    run_train(
        "--framework", framework, *RUN, "--steps", 3, "--seed", 1, "--workdir", tmp_path / "r"
    )
    assert records(tmp_path / "r")[0]["loss"] != records(whole)[0]["loss"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_json_is_all_that_standard_output_has(framework, tmp_path):
    """Of a run, and of one that had ended already: the last lines of the log."""
    options = ("--framework", framework, *NARROW, "--workdir", tmp_path / "run", "--json")
    for steps, more in ((6, ()), (6, ("--resume",))):
        result = run_train(*options, "--steps", steps, *more)
        found = json.loads(result.stdout)
        lines = records(tmp_path / "run")
        assert found["step"] == found["total_steps"] == 6
        assert found["workdir"] == str(tmp_path / "run")
        assert found["framework"] == framework
        for split in ("train", "eval"):
            last = [line for line in lines if line["split"] == split][-1]
            assert found[split] == {**last, "examples_per_second": ANY}
        assert "test top-1" in result.stderr


def test_json_of_a_run_that_is_stopped(tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--framework", "torch", *NARROW, "--json",
         "--steps", "100000", "--workdir", tmp_path / "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_step(tmp_path / "run", process, 3)
    process.send_signal(signal.SIGTERM)
    output, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    found = json.loads(output)
    assert 3 <= found["step"] < found["total_steps"] == 100000
    assert found["train"] == {**records(tmp_path / "run")[-1], "examples_per_second": ANY}
    assert found["eval"] is None


def test_json_of_a_mistake_is_none(tmp_path):
    result = run_train("--json", "--steps", 2, "--spmd", "p", "--workdir", tmp_path / "r", check=2)
    assert result.stdout == ""
    assert "error: " in result.stderr


def test_ctrl_c_saves(tmp_path):
    path = tmp_path / "run"
    process = start("jax", path, *RUN, "--steps", "100000", "--eval-every", "1000")
    wait_for_step(path, process, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "saving, then stopping" in output
    assert any((path / "checkpoints").iterdir())


def test_one_curve_on_the_command_line(tmp_path):
    for framework in FRAMEWORKS:
        run_train(
            "--framework", framework, *NARROW, "--steps", 8, "--workdir", tmp_path / framework
        )
    pairs = zip(records(tmp_path / "jax"), records(tmp_path / "torch"), strict=True)
    for ours, theirs in pairs:
        assert ours["learning_rate"] == theirs["learning_rate"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_weights_move_through_init_from(finished, tmp_path):
    framework, whole, _ = finished
    other = next(f for f in FRAMEWORKS if f != framework)
    same = run_train(
        "--framework", other, *NARROW, "--steps", 1, "--learning-rate", 0,
        "--init-from", whole / "weights.safetensors", "--workdir", tmp_path / "a",
    )  # fmt: skip
    assert "initialized anew" not in same.stdout
    evals = [r for p in (whole, tmp_path / "a") for r in records(p) if r["split"] == "eval"]
    assert evals[-1]["loss"] == pytest.approx(evals[-2]["loss"], rel=1e-5)


def test_init_from_takes_a_run_and_tells_of_another_preprocessing(finished, tmp_path):
    framework, whole, _ = finished
    options = ("--framework", framework, *NARROW, "--steps", 1, "--init-from", whole)
    same = run_train(*options, "--workdir", tmp_path / "a")
    assert "these weights take" not in same.stdout
    assert f"weights from {whole}" in same.stdout
    assert "mean 77.9 77.9 77.9, std 95.9 95.9 95.9, as the weights'" in same.stdout
    other = run_train(*options, "--mean", 5, "--std", 7, "--workdir", tmp_path / "b")
    (told,) = [line for line in other.stdout.splitlines() if "warning: these weights take" in line]
    assert "mean 77.9 77.9 77.9" in told
    assert "mean 5 5 5, std 7 7 7, as its options say" in told


def test_another_number_of_classes_starts_the_last_layer_anew(finished, tmp_path):
    framework, whole, _ = finished
    result = run_train(
        "--framework", framework, *NARROW, "--recipe", "digits", "--dataset", "synthetic",
        "--steps", 1, "--learning-rate", 0, "--init-from", whole / "weights.safetensors",
        "--workdir", tmp_path / "b",
    )  # fmt: skip
    assert "fc8 is initialized anew: the file has 10 classes, the data 1000" in result.stdout
    before = load(whole / "weights.safetensors").arrays
    after = load(tmp_path / "b/weights.safetensors").arrays
    assert after["fc8.bias"].shape == (1000,)
    assert all((after[n] == before[n]).all() for n in before if not n.startswith("fc8"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(framework, tmp_path):
    result = run_train(
        "--framework", framework, *NARROW, "--warmup-steps", 2, "--warmup-power", 30,
        "--learning-rate", 1e20, "--checkpoint-every", 1, "--workdir", tmp_path / "r", check=1,
    )  # fmt: skip
    message = result.stderr.splitlines()[-1]
    assert message.startswith("failed: ")
    assert "Traceback" not in result.stderr
    assert "checkpoints/00000001" in message
    assert [p.name for p in (tmp_path / "r/checkpoints").iterdir()] == ["00000001"]


@pytest.mark.parametrize("schedule", ["step", "plateau"])
def test_bf16_and_the_options_train(schedule, tmp_path):
    for framework in FRAMEWORKS:
        run_train(
            "--framework", framework, *NARROW, "--precision", "bf16", "--label-smoothing", 0.1,
            "--clip-norm", 1, "--nesterov", "--no-decay-biases", "--schedule", schedule,
            "--variant", "paper", "--image-size", 67, "--channels", 1, "--steps", 6,
            "--eval-every", 2, "--patience", 1, "--workdir", tmp_path / framework,
        )  # fmt: skip
    pairs = zip(records(tmp_path / "jax"), records(tmp_path / "torch"), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=2e-2) for a, b in pairs)


MISTAKES = {
    "--framework jaxx": "did you mean 'jax'",
    "--variant papr": "did you mean 'paper'",
    "--recipe digit": "did you mean 'digits'",
    "--dataset digts": "did you mean 'digits'",
    "--dataset folder:/nowhere/at/all": "/nowhere",
    "--dataset tfds:cifar10 --data-dir /nowhere/at/all": "prepare",
    "--image-size 20": "smallest that works is 63",
    "--variant paper --image-size 60": "smallest that works is 67",
    "--batch-size 5000": "only 1,438 training examples: give --batch-size 1438 or less",
    "--resume": "--workdir",
    "--resume --workdir {tmp}/none": "no run",
    "--workdir {tmp}/file": "is a file",
    "--workdir {tmp}/other": "no run",
    "--init-from {tmp}/file": "file",
    "--init-from {tmp}/none": "none",
    "--steps 3 --epochs 2": "exclude",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_gets_a_sentence_and_exit_code_2(options, tmp_path):
    (tmp_path / "file").write_text("hello")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data").write_text("x")
    words = options.format(tmp=tmp_path).split()
    if "--workdir" not in words and "--resume" not in words:
        words += ["--workdir", str(tmp_path / "run")]
    result = run_train(*words, check=2)
    assert MISTAKES[options] in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", ["--batchsize 3", "--steps many"])
def test_a_misspelt_option_gets_exit_code_2(options):
    result = run_train(*options.split(), check=2)
    assert "Traceback" not in result.stderr


def test_eight_devices_share_the_batch(tmp_path):
    eight = {"JAX_NUM_CPU_DEVICES": "8"}
    result = run_train(*NARROW, "--batch-size", 30, "--workdir", tmp_path / "a", check=2, env=eight)
    assert "30 can't be shared evenly by 8 devices: use 24 or 32" in result.stderr
    run_train(*NARROW, "--steps", 3, "--workdir", tmp_path / "b", env=eight)
    run_train(*NARROW, "--steps", 3, "--workdir", tmp_path / "c")
    for ours, theirs in zip(records(tmp_path / "b"), records(tmp_path / "c"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def make_folder(path, bad=None):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for label in ("cat", "dog"):
            (path / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (80, 90, 3), np.uint8)
                Image.fromarray(pixels).save(path / split / label / f"{i}.jpg")
    if bad:
        (path / bad).write_bytes((path / bad).read_bytes()[:500])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_unreadable_image_is_named_and_left_out_or_stops(framework, tmp_path):
    make_folder(tmp_path / "photos", bad="val/cat/3.jpg")
    options = ("--framework", framework, *NARROW, "--dataset", f"folder:{tmp_path / 'photos'}",
               "--image-size", 64, "--batch-size", 8, "--steps", 3)  # fmt: skip
    result = run_train(*options, "--workdir", tmp_path / "a", check=2)
    assert "cat/3.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    now = ("--on-bad-image", "skip", "--resume")  # where a run met it, it can go on
    result = run_train(*options, *now, "--workdir", tmp_path / "a")
    assert result.stdout.count("left out: ") == 1
    assert "(9 examples)" in result.stdout.splitlines()[-1]
