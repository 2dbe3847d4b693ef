"""What is imported when: the shared package needs no framework, and none needs the other."""

import json
import os
import pkgutil
import subprocess
import sys
import time

import pytest

import alexnet
from alexnet.weights import formats
from tests.conftest import NARROW, ROOT

FRAMEWORKS = {"jax": {"jax", "jaxlib", "flax", "optax", "orbax"}, "torch": {"torch", "torchinfo"}}
ALL = set.union(*FRAMEWORKS.values())


# Readers and writers of other programs' weights.
READERS = {
    f"alexnet.weights.{name}"
    for name in {*formats._READERS.values(), *formats._WRITERS.values()} - {"canonical"}
}


def modules_after(code: str) -> set[str]:
    """Modules that are loaded after running code in a fresh interpreter."""
    tail = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_shared_package_imports_neither():
    names = [m.name for m in pkgutil.walk_packages(alexnet.__path__, "alexnet.")]
    names = [name for name in names if not name.endswith("__main__")]
    assert "alexnet.loop" in names
    assert "alexnet.weights.formats" in names
    code = "\n".join(f"import {name}" for name in names)
    assert not modules_after(code) & ALL


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_imports_one_framework(framework, tmp_path):
    options = ["--framework", framework, *NARROW, "--steps", "2", "--workdir", str(tmp_path / "w")]
    loaded = modules_after(f"from alexnet.cli import main\nassert main(['train', *{options}]) == 0")
    assert loaded & FRAMEWORKS[framework]
    assert "alexnet.weights.canonical" in loaded
    assert not loaded & READERS
    other = next(f for f in FRAMEWORKS if f != framework)
    assert not loaded & FRAMEWORKS[other]


@pytest.mark.parametrize("package", ["alexnet_jax", "alexnet_torch", "alexnet.weights"])
def test_weights_readers_are_imported_when_they_are_needed(package):
    loaded = modules_after(f"import {package}, alexnet.weights.formats")
    assert not loaded & (READERS | {"alexnet.weights.canonical", "scipy.io", "onnx"})


@pytest.mark.parametrize("command", [["train", "--help"], ["--help"], ["summary", "--help"]])
def test_help_imports_nothing_slow(command):
    """--help is to answer in half a second: what takes longer to import is not loaded for it."""
    start = time.perf_counter()
    loaded = modules_after(
        f"from alexnet.cli import main\ntry: main({command})\nexcept SystemExit as e: pass"
    )
    print(f"{' '.join(command)}: {time.perf_counter() - start:.2f} s with starting Python")
    slow = {"numpy", "sklearn", "matplotlib", "tensorflow_datasets", "tensorboardX", "PIL"}
    assert not loaded & (slow | ALL)


def test_commands_wait_for_numpy_until_they_work():
    """For `--help`, which is to answer at once."""
    commands = ", ".join(f"alexnet.commands.{name}" for name in ("evaluate", "predict", "train"))
    assert "numpy" not in modules_after(f"import {commands}")
