"""`make gpu-report` where there is no GPU, and its page of numbers that stand in for one's."""

import json
import os
import subprocess
import sys

import pytest

from alexnet.bench.conditions import conditions
from alexnet.spec import VARIANTS
from tests import gpu_report


def test_without_a_gpu_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "gpu", lambda framework: "")
    assert gpu_report.main([str(tmp_path / "gpu.md")]) == 1
    assert capsys.readouterr().err.startswith("failed: no GPU: neither JAX nor torch")
    assert list(tmp_path.iterdir()) == []
    assert gpu_report.main([str(tmp_path / "gpu.md"), "--variants", "papr"]) == 2


def test_a_framework_that_cannot_start_has_no_gpu(monkeypatch):
    monkeypatch.setitem(gpu_report.GPU_NAME, "jax", "import nothing_like_it")
    assert gpu_report.gpu("jax") == ""
    monkeypatch.setitem(gpu_report.GPU_NAME, "jax", "print('H1')")
    assert gpu_report.gpu("jax") == "H1"


@pytest.fixture
def measured(monkeypatch):
    """A GPU that isn't there: the numbers are those of a processor."""

    def ready(command, seconds, **env):
        if "pytest" in command:
            return 1, "FAILED tests/parity/a.py::b - assert\n==== 1 failed, 2 passed ====\n", ""
        if "bn" in command:
            return (None, "", "") if "train" in command else (2, "", "error: too hot\n")
        job = {"variant": "paper", "what": "train", "precision": "bf16", "batch_size": 1024}
        times = {"plain torch": 1.5, "plain torch, compiled": 1.25, "plain jax": 3.0}
        ratios = {name: {"median": x, "min": x - 0.5, "max": x + 0.5} for name, x in times.items()}
        ours = {
            "images_per_second": 12345.6, "milliseconds_per_step": 82.9, "share_of_peak": 0.25,
            "peak_device_memory_bytes": 3 << 30, "times_as_fast_as": ratios, "device": {},
        }  # fmt: skip
        rows = [{"name": name, "framework": name, **ours} for name in ("jax", "torch")]
        return 0, json.dumps({"job": job, "contenders": rows, "conditions": conditions()}), ""

    monkeypatch.setattr(gpu_report, "run", ready)
    monkeypatch.setattr(gpu_report, "gpu", lambda framework: "H1")


def test_the_page(tmp_path, measured):
    page = tmp_path / "gpu.md"
    assert gpu_report.main([str(page), "--variants", "paper", "bn"]) == 1
    text = page.read_text()
    assert "jax on H1, torch on H1" in text
    assert "1 failed, 2 passed.\n- tests/parity/a.py::b" in text
    row = (
        "| `paper` | train | bf16 | 1,024 | 12,346 |  | 12,346 |  |  | 3.00 (2.50 to 3.50) | 1.25 "
    )
    assert text.count(row) == 8
    assert "| 82.90 | 25% | 3,072 |" in text
    assert "- bn, train, batch 128, fp32: not finished in time" in text
    assert "- bn, infer, batch 128, fp32: error: too hot" in text


def test_the_page_ends_in_time(tmp_path, measured):
    page = tmp_path / "gpu.md"
    assert gpu_report.main([str(page), "--minutes", "0.01"]) == 1
    assert page.read_text().count("not run, the time was over") == len(VARIANTS) * 8


def test_programs_that_measure_take_the_machine_as_it_is():
    """The suite's own conftest.py makes eight devices of a CPU, and hides GPUs."""
    code = "import os, tests.gpu_report, tests.growth, tests.reproduce, tests.tpu_table; "
    code += "assert not {'JAX_PLATFORMS', 'JAX_NUM_CPU_DEVICES', 'OMP_NUM_THREADS'} & {*os.environ}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    clean.pop("OMP_NUM_THREADS", None)
    subprocess.run([sys.executable, "-c", code], env=clean, cwd=gpu_report.ROOT, check=True)
