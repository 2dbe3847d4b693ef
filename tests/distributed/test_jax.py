"""Two real JAX processes with four devices each, on loopback, make one run."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.distributed.launch import (
    ROOT,
    Run,
    apart,
    environment,
    free_port,
    records,
    statistics_apart,
)

pytestmark = pytest.mark.slow
BOUND = 1e-5
STEPS = 20


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The run that all others must repeat."""
    path = tmp_path_factory.mktemp("one") / "run"
    Run(path, "--steps", STEPS, "--eval-every", 10, processes=1, devices=1).wait()
    return path


def test_two_processes_are_one_device(one_device, tmp_path):
    first, second = Run(tmp_path / "run", "--steps", STEPS, "--eval-every", 10).wait()
    distance = apart(tmp_path / "run", one_device)
    print(f"2 processes x 4 devices: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND
    assert "process 0 of 2, 4 local devices" in first
    assert "process 1 of 2, 4 local devices" in second
    assert "test top-1" in first
    assert "test top-1" not in second
    assert {r["count"] for r in records(tmp_path / "run", "eval")} == {359}


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_two_processes_share_batch_norms_statistics(mode, tmp_path):
    """Variant bn: means and variances of the global batch, in loss, evaluation and weights."""
    options = ("--variant", "bn", "--learning-rate", 1e-4, "--steps", 8, "--eval-every", 4)
    Run(tmp_path / "one", *options, processes=1, devices=1).wait()
    Run(tmp_path / "two", *options, "--spmd", mode).wait()
    distance = apart(tmp_path / "two", tmp_path / "one")
    print(f"bn, 2 processes x 4 devices, {mode}: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND
    assert statistics_apart(tmp_path / "two", tmp_path / "one") < BOUND


@pytest.mark.parametrize(
    "mode",
    [("--spmd", "shard_map"), ("--spmd", "pmap"), ("--mesh", "data=1,model=8"), ("--fsdp",)],
    ids=str,
)
def test_two_processes_in_every_mode(mode, one_device, tmp_path):
    Run(tmp_path / "run", "--steps", STEPS, "--eval-every", 10, *mode).wait()
    distance = apart(tmp_path / "run", one_device)
    print(f"2 processes x 4 devices, {' '.join(mode)}: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND


@pytest.mark.parametrize("spmd", ["jit", "shard_map", "pmap"])
def test_two_processes_evaluate_as_one_device(spmd, one_device):
    """`alexnet evaluate`: each example once, and every process's in the predictions."""
    command = [sys.executable, "-m", "alexnet", "evaluate", one_device, "--json", "--worst", "5"]
    alone = subprocess.run(
        command, capture_output=True, text=True, env=environment(1), cwd=ROOT, check=True
    )
    port, processes = free_port(), []
    for index in range(2):
        own = ["--distributed", "--coordinator", f"localhost:{port}", "--processes", "2",
               "--process", str(index), "--spmd", spmd]  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([*command, *own], env=environment(4), cwd=ROOT, **pipes))
    (first, errors), (second, _) = (process.communicate(timeout=240) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "top1" not in second
    first = first[first.index("[\n") :]  # XLA's Gloo, between CPUs, tells of itself before it
    (found,), (expected,) = json.loads(first), json.loads(alone.stdout)
    assert found["loss"] == pytest.approx(expected["loss"], rel=BOUND)
    for name in ("top1", "top5", "count", "classes", "confused"):
        assert found[name] == expected[name], name
    assert [w["name"] for w in found["worst"]] == [w["name"] for w in expected["worst"]]


def test_control_another_seed_is_noticed(one_device, tmp_path):
    run = Run(tmp_path / "run", "--steps", STEPS, "--eval-every", 10, "--seed", 1, processes=1)
    run.wait()
    with pytest.raises(AssertionError):
        assert apart(tmp_path / "run", one_device) < 100 * BOUND


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_the_other_and_the_run_goes_on(victim, one_device, tmp_path):
    """Process 0 holds the coordinator, process 1 doesn't; the survivor may hang in neither."""
    path = tmp_path / "run"
    slowly = ("--steps", STEPS, "--eval-every", 10, "--checkpoint-every", 3)
    run = Run(path, *slowly)
    run.at_step(8)  # saving at step 6 waited until step 3 was saved
    run.kill(victim)
    start = time.monotonic()
    codes = [-signal.SIGKILL if index == victim else 1 for index in (0, 1)]
    outputs = run.wait(codes, timeout=60)
    print(f"process {1 - victim} ended {time.monotonic() - start:.0f} s after the other")
    (last,) = outputs[1 - victim].strip().splitlines()[-1:]
    assert last.startswith("failed: ")
    assert "--resume" in last
    saved = max(int(p.name) for p in (path / "checkpoints").iterdir() if (p / "meta.json").exists())
    (output,) = Run(path, "--resume", processes=1, devices=1).wait()
    assert f"going on from the checkpoint at step {saved}" in output
    distance = apart(path, one_device)
    print(f"killed, resumed on one device: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND


def test_sigterm_to_one_saves_one_step_on_all(one_device, tmp_path):
    path = tmp_path / "run"
    run = Run(path, "--steps", STEPS, "--eval-every", 10)
    run.at_step(1)
    run.kill(1, number=signal.SIGTERM)
    first, _ = run.wait([128 + signal.SIGTERM] * 2)
    (step,) = (int(p.name) for p in (path / "checkpoints").iterdir())
    assert f"stopped at step {step}; --resume" in first
    (output,) = Run(path, "--resume", "--mesh", "data=2,model=2", processes=1).wait()
    assert f"going on from the checkpoint at step {step}" in output
    assert apart(path, one_device) < BOUND


def test_processes_that_differ_are_refused(tmp_path):
    run = Run(tmp_path / "run", "--steps", 2, own=lambda index: ("--seed", str(index)))
    outputs = run.wait([2, 2])
    assert all("process 1 has other options than process 0" in output for output in outputs)
    assert not (tmp_path / "run").exists()


def test_a_work_directory_of_each_host_is_refused(tmp_path):
    """Two hosts' disks: the same name, two directories."""
    for index in "01":
        (tmp_path / index).mkdir()
    run = Run("here", "--steps", 2, cwds=(tmp_path / "0", tmp_path / "1"))
    for output in run.wait([2, 2]):
        assert "process 1 does not see process 0's --workdir here" in output


def photographs(folder, broken=False):
    """Two classes of noise on a host's own disk; `broken` spoils one training image."""
    for split in ("train", "val"):
        for index in range(32):
            path = folder / "pics" / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 255, (70, 70, 3), np.uint8)
            Image.fromarray(noise).save(path)
    if broken:
        (folder / "pics/train/b/31.png").write_bytes(b"no image")


@pytest.mark.parametrize("broken", [False, True], ids=["no data", "a broken image"])
def test_what_fails_on_one_host_is_said_there_and_ends_all(broken, tmp_path):
    photographs(tmp_path / "0")
    (tmp_path / "1").mkdir()
    if broken:
        photographs(tmp_path / "1", broken=True)
    options = ("--dataset", "folder:pics", "--recipe", "digits", "--steps", 40)
    run = Run(tmp_path / "run", *options, cwds=(tmp_path / "0", tmp_path / "1"))
    start = time.monotonic()
    first, second = run.wait([1, 2] if broken else [2, 2], timeout=120)
    print(f"all ended {time.monotonic() - start:.0f} s after the start")
    if broken:
        assert "31.png can't be read" in second.splitlines()[-1]
        assert first.splitlines()[-1].startswith("failed: ")
    else:
        assert second.splitlines()[-1] == "error: there is no folder pics"
        assert "process 1 could not begin" in first.splitlines()[-1]


def test_an_occupied_work_directory_is_refused_by_all(one_device):
    outputs = Run(one_device, "--steps", STEPS).wait([2, 2])
    assert "holds a run already" in outputs[0]
    assert "process 0 could not begin" in outputs[1]
