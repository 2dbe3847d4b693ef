"""Settings for all tests: eight CPU devices for JAX, and where to find large samples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Before JAX starts: tests of sharding need more than one device.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

NARROW = ("--width", "0.0625", "--log-every", "1")


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
