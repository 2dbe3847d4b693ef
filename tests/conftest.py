"""Settings for all tests: eight CPU devices for JAX, and where to find large samples."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alexnet.spec import VARIANTS

ROOT = Path(__file__).parents[1]

# Before JAX and torch start: tests of sharding need more than one device, many processes compile
# the same steps, and two workers share the machine.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="alexnet-tests-")  # removed at exit
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Variants made of layers that others have too: tests that take long leave them out.
DISTINCT = [
    name
    for name in VARIANTS
    if name not in {
        "krizhevsky2012_no_lrn", "krizhevsky2012_no_lrn2", "krizhevsky2012_half",
        "one_weird_trick", "cifar_19pct", "figure1_relu",
    }
]  # fmt: skip
NARROW = ("--width", "0.0625", "--log-every", "1")


def first_batches(config, count: int = 1) -> list[dict]:
    """The first training batches of a run."""
    from alexnet.data.pipeline import train_batches

    batches = train_batches(
        config.open_dataset(), config.augmentation, config.loading(), seed=config.run.seed
    )
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def records(path: Path) -> list[dict]:
    """A run's metrics.jsonl without the one thing that is not reproducible."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in one.items() if k != "examples_per_second"} for one in lines]


def run_train(*options: object, check: int | None = 0, **kwargs) -> subprocess.CompletedProcess:
    """`python train.py` with these options in a process of its own, on one device."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", **kwargs.pop("env", {})}
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", *map(str, options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        **kwargs,
    )
    if check is not None and result.returncode != check:
        pytest.fail(f"exit code {result.returncode}, not {check}:\n{result.stdout}{result.stderr}")
    return result


def alexnet_command(*options: object, check: int = 0, **kwargs) -> subprocess.CompletedProcess:
    """`alexnet` with these options in a process of its own, on one device."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "alexnet", *map(str, options)],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, **kwargs,
    )  # fmt: skip
    assert result.returncode == check, result.stdout + result.stderr
    return result
