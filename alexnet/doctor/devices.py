"""Checks of the devices that a framework sees against those that it should.

Run as a program, this asks a framework for its devices: it reads a run's configuration as JSON and
prints one line of JSON. It runs in a separate process, as a runtime may hang or crash.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from alexnet.config import TrainConfig
from alexnet.config_json import from_json, to_json
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding, install
from alexnet.engine import import_framework
from alexnet.errors import UserError
from alexnet.imports import command_of
from alexnet.processes import connect

TIME_LIMIT = 120  # seconds; a TPU slice's first answer may take one of the two minutes

_GOOGLE = "0x1ae0"  # PCI vendor of TPUs, and of Google's network cards
_TPU_VARIABLES = (
    "TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES",
    "TPU_ACCELERATOR_TYPE", "TPU_LIBRARY_PATH",
)  # fmt: skip


def probe(config: TrainConfig, seconds: float = TIME_LIMIT) -> dict[str, Any]:
    """Ask a framework for its devices, by `inspection.devices`, in another process.

    If that fails or takes more than `seconds`, return `error`, a sentence, and `fix`.
    """
    process = subprocess.Popen(
        command_of("alexnet.doctor.devices"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )  # fmt: skip
    try:
        output, errors = process.communicate(json.dumps(to_json(config)), timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # no wait: a stuck driver can't be ended
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipe.close()
        return {
            "error": f"{config.framework} did not name its devices within {seconds:.0f} seconds",
            "fix": "on a TPU slice run this on every worker at once: gcloud compute tpus tpu-vm "
            "ssh NAME --worker=all --command='...'; on one host find out who holds the device: "
            "sudo lsof -w /dev/accel* /dev/vfio/* /dev/nvidia*",
        }
    lines = output.splitlines()
    if process.returncode or not lines:
        said = errors.strip().splitlines() or [f"exit code {process.returncode}"]
        error = f"{config.framework} ended before it named its devices: {said[-1]}"
        return {"error": error, "fix": f"{install(config.framework)} in a new virtual environment"}
    return json.loads(lines[-1])


def check(seen: dict[str, Any], config: TrainConfig, root: Path = Path("/")) -> list[Finding]:
    """Report the devices seen, and warn if the machine has better ones.

    Args:
        seen: from `probe`.
        config: the run's configuration.
        root: the root directory for the machine's device files.
    """
    if "error" in seen:
        return [Finding("devices", WRONG, seen["error"], seen.get("fix", ""))]
    framework, platform = config.framework, seen["platform"]
    noun = "device" if seen["count"] == 1 else "devices"
    found = f"{seen['count']} {seen['kind']} {noun}, {framework} {seen['version']}"
    if seen["processes"] > 1:
        found += f", {seen['processes']} processes"
    if seen.get("kernels"):
        found += f", {seen['kernels']}"
    findings = [Finding("devices", OK, found)]
    if platform == "cpu" and has_gpu(root):
        findings.append(_unused("GPU", framework, seen["version"]))
    if platform != "tpu" and has_tpu(root):
        findings.append(_unused("TPU", framework, seen["version"]))
    return findings


def has_tpu(root: Path = Path("/")) -> bool:
    """Look for a TPU's device file (vfio ones may be any device's), or its settings."""
    vendors = root.glob("sys/bus/pci/devices/*/vendor")
    vfio = any(root.glob("dev/vfio/[0-9]*"))
    return (
        any(root.glob("dev/accel[0-9]*"))
        or (vfio and any(vendor.read_text().strip() == _GOOGLE for vendor in vendors))
        or any(name in os.environ for name in _TPU_VARIABLES)
    )


def has_gpu(root: Path = Path("/")) -> bool:
    """Look for an NVIDIA GPU's device file or, since WSL has none, ask the driver."""
    if any(root.glob("dev/nvidia[0-9]*")):
        return True
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.startswith(b"GPU")


def _unused(device: str, framework: str, version: str) -> Finding:
    """A warning about an accelerator that the framework doesn't use, and how to use it."""
    found = f"this machine has a {device} that {framework} doesn't use"
    hiding = "JAX_PLATFORMS" if framework == "jax" else "CUDA_VISIBLE_DEVICES"
    if framework == "torch" and device == "TPU":
        fix = "use --framework jax, which runs on TPUs"
    elif hiding in os.environ:
        found += f": {hiding} is '{os.environ[hiding]}'"
        fix = f"unset {hiding}"
    elif framework == "jax":
        fix = install("tpu" if device == "TPU" else "cuda")
    else:
        fix = f"pip install --force-reinstall torch=={version.partition('+')[0]}"
    return Finding("devices", WARNING, found, fix)


def _look(config: TrainConfig) -> dict[str, Any]:
    inspection = import_framework(config.framework, "inspection")
    processes = connect(config.framework, config.devices)
    try:
        return inspection.devices(config)
    finally:
        processes.leave(0)


if __name__ == "__main__":
    try:
        answer = _look(from_json(json.load(sys.stdin)))
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
