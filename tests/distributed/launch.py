"""Starts the processes of one run on this machine, and reads what they left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from alexnet.weights import load

ROOT = Path(__file__).parents[2]

# A narrow net on real digits, with everything that draws random numbers: sample order,
# augmentation, colour noise, dropout. 359 test examples make the last batch a partial one.
OPTIONS = [
    *("--width", "0.0625", "--image-size", "67", "--batch-size", "16", "--log-every", "1"),
    *("--flip", "--color-noise", "0.1", "--learning-rate", "0.02", "--warmup-steps", "0"),
    *("--loader-threads", "1"),
]


def environment(devices):
    return {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


class Run:
    """`processes` times the same command, each with its own devices, in the background."""

    def __init__(self, workdir, *options, processes=2, devices=4, own=lambda index: (), cwds=()):
        self.workdir = workdir
        together = ["--distributed", "--coordinator", f"localhost:{free_port()}"]
        self.all = []
        for index in range(processes):
            mine = [*together, "--processes", processes, "--process", index] * (processes > 1)
            run = [] if "--resume" in options else OPTIONS
            command = ["--framework", "jax", "--workdir", workdir, *run, *mine, *options]
            self.all.append(
                subprocess.Popen(
                    [sys.executable, ROOT / "train.py", *map(str, command), *own(index)],
                    env=environment(devices),
                    cwd=cwds[index] if cwds else None,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait(self, codes=None, timeout=240):
        """Both outputs, once all have ended with these exit codes (0 by default)."""
        outputs = []
        for process in self.all:
            try:
                outputs.append(process.communicate(timeout=timeout)[0])
            except subprocess.TimeoutExpired:
                self.kill()
                outputs.append(f"did not end within {timeout} s\n{process.communicate()[0]}")
        found = [process.returncode for process in self.all]
        assert found == (codes or [0] * len(found)), "\n\n".join(outputs)
        return outputs

    def kill(self, *indices, number=signal.SIGKILL):
        for index in indices or range(len(self.all)):
            self.all[index].send_signal(number)

    def at_step(self, step):
        """Return once the log has this training step."""
        wait_for_step(self.workdir, step, self.all)


def wait_for_step(workdir, step, processes, timeout=180):
    end = time.monotonic() + timeout
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if any(record["step"] >= step for record in records(workdir)):
            return
        time.sleep(0.05)
    for process in processes:
        process.kill()
    outputs = "\n\n".join(process.communicate()[0] for process in processes)
    raise AssertionError(f"never came to step {step}:\n{outputs}")


def torchrun(workdir, *options, processes=2):
    """torchrun with that many processes, in the background."""
    command = ["--framework", "torch", "--workdir", workdir, *OPTIONS, *options]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    launcher += ["--master-port", str(free_port())]
    return subprocess.Popen(
        [*launcher, ROOT / "train.py", *map(str, command)],
        env=environment(1),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process, code=0):
    """What a process printed; it must end with this exit code, or with any for None."""
    output = process.communicate(timeout=240)[0]
    assert code in (None, process.returncode), output
    return output


def records(workdir, split=None):
    file = workdir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    whole = [json.loads(line) for line in lines]
    return [record for record in whole if split in (None, record["split"])]


def numbers(workdir):
    """What a run computed, without the speeds."""
    return {
        (record["step"], record["split"]): [record[k] for k in ("loss", "top1", "top5")]
        for record in records(workdir)
    }


def apart(workdir, reference):
    """The largest relative difference of any loss; top-1 and top-5 must be equal."""
    found, expected = numbers(workdir), numbers(reference)
    assert found.keys() == expected.keys()
    for at, (_, *hits) in found.items():
        np.testing.assert_allclose(hits, expected[at][1:], atol=1e-6)
    return max(abs(found[at][0] / expected[at][0] - 1) for at in found)


def statistics_apart(workdir, reference):
    """The largest difference of any running statistic, relative to the largest of its array."""
    found, expected = (load(path / "weights.safetensors").arrays for path in (workdir, reference))
    tracked = [name for name in expected if name.endswith((".mean", ".variance"))]
    assert len(tracked) == 8
    return max(
        float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in tracked
    )
