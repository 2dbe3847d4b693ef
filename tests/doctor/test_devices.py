"""Devices that are there, unused, hanging or broken."""

import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexnet.doctor import devices
from alexnet.doctor.finding import OK, WARNING, WRONG
from tests.doctor.helpers import CPU, config


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine's files below a directory, which it returns."""
    for name in devices._TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi

    def build(**files):
        for path, text in files.items():
            file = tmp_path / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return build


@pytest.mark.parametrize("name", ["TPU_NAME", "TPU_PROCESS_ADDRESSES", "TPU_LIBRARY_PATH"])
def test_a_tpus_settings_are_known(machine, monkeypatch, name):
    assert not devices.has_tpu(machine())
    monkeypatch.setenv(name, "x")
    assert devices.has_tpu(machine())


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_the_devices_of_this_machine(framework):
    seen = devices.probe(config("--framework", framework, "--batch-size", "8"))
    assert "error" not in seen, seen
    assert seen["platform"] == "cpu"
    assert seen["count"] == (8 if framework == "jax" else 1)


def test_a_batch_that_the_devices_cannot_share():
    seen = devices.probe(config("--batch-size", "100"))
    (finding,) = devices.check(seen, config())
    assert finding.status == WRONG
    assert "--batch-size 100 can't be shared evenly by 8 devices" in finding.found


def test_two_processes_that_find_each_other():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    others = ("--distributed", "--coordinator", f"localhost:{port}", "--processes", 2)
    with ThreadPoolExecutor() as pool:
        probes = pool.map(devices.probe, [config(*others, "--process", i) for i in range(2)])
        found = [(seen.get("count"), seen.get("processes"), seen.get("error")) for seen in probes]
    assert found == [(16, 2, None)] * 2


def test_a_runtime_that_hangs_is_reported_and_ended(monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    others = ("--distributed", "--coordinator", "localhost:1", "--processes", 2, "--process", 1)
    start = time.perf_counter()
    seen = devices.probe(config(*others), seconds=6)
    print(f"probe ended after {time.perf_counter() - start:.1f} s")
    (finding,) = devices.check(seen, config())
    assert finding.status == WRONG
    assert "within 6 seconds" in finding.found
    assert "--worker=all" in finding.fix
    assert [process.wait(timeout=10) for process in started] == [-signal.SIGKILL]


def test_a_runtime_that_fails_says_why(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    (finding,) = devices.check(devices.probe(config()), config())
    assert finding.status == WRONG
    assert "abacus" in finding.found


def test_a_cpu_machine_has_nothing_to_warn_of(machine):
    root = machine(dev__null="", dev__vfio__vfio="", dev__accel__accel0="")  # an Intel NPU
    assert [f.status for f in devices.check(CPU, config(), root)] == [OK]


@pytest.mark.parametrize(
    ("files", "framework", "fix"),
    [
        ({"dev__accel0": ""}, "jax", "'.[tpu]'"),
        ({"dev__vfio__0": "", "sys__bus__pci__devices__a__vendor": "0x1ae0\n"}, "jax", "'.[tpu]'"),
        ({"dev__accel0": ""}, "torch", "--framework jax"),
        ({"dev__nvidia0": ""}, "jax", "'.[cuda]'"),
        ({"dev__nvidia0": ""}, "torch", "--force-reinstall torch==1.2"),
    ],
)
def test_a_device_that_is_not_used_is_a_warning(machine, files, framework, fix):
    seen = {**CPU, "version": "1.2+cpu"}
    findings = devices.check(seen, config("--framework", framework), machine(**files))
    assert [f.status for f in findings] == [OK, WARNING]
    assert fix in findings[1].fix
    used = {**CPU, "platform": "tpu" if "accel" in str(files) else "gpu"}
    if framework == "jax" and "vfio" not in str(files):
        assert [f.status for f in devices.check(used, config(), machine(**files))] == [OK]


def test_a_device_of_another_maker_behind_vfio_is_no_tpu(machine):
    assert not devices.has_tpu(machine(dev__vfio__0="", sys__bus__pci__devices__a__vendor="0x10de"))


def test_a_tpu_named_by_its_settings(machine, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert devices.has_tpu(machine())


def test_a_setting_that_hides_the_device_is_named(machine, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    findings = devices.check(CPU, config(), machine(dev__nvidia0=""))
    assert findings[1].fix == "unset JAX_PLATFORMS"


def test_a_gpu_known_to_its_driver_only(machine, tmp_path):
    root = machine()
    assert not devices.has_gpu(root)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA'\n")
    smi.chmod(0o755)
    assert devices.has_gpu(root)
