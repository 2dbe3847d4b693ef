"""Cost of converting the full network: `python -m tests.weights.cost`, on Linux.

Prints a Markdown table: processor time and memory of reading every format and of writing every
format that is written, 61 million numbers each, in a process of its own and beyond its imports.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.weights import Weights, save
from alexnet.weights.formats import WRITABLE

RUNS = 5
# Memory is the kernel's peak, less what was there after the imports. (`ru_maxrss` would begin with
# that of the parent.) What reading took is there before anything is written.
CONVERT = """
import importlib, json, resource, sys
from alexnet.weights import formats, load, save
for name in {*formats._READERS.values(), *formats._WRITERS.values()}:
    importlib.import_module(f"alexnet.weights.{name}")
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    kib = [int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")]
    return usage.ru_utime + usage.ru_stime, *kib
source, target, to = sys.argv[1:]
start, before, _ = used()
weights = load(source)
middle, _, _ = used()
save(target, weights, to or None)
end, _, peak = used()
print(json.dumps([middle - start, end - middle, (peak - before) * 1024]))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "jax"}))
"""


@dataclass(frozen=True)
class Cost:
    """Processor seconds and bytes that one conversion took beyond its imports."""

    read: float
    write: float
    memory: float
    frameworks: str  # those that were imported, as a list


def convert(source: Path, target: Path, to: str = "") -> Cost:
    """Convert in a fresh process, on one thread."""
    command = [sys.executable, "-c", CONVERT, str(source), str(target), to]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    if result.returncode:
        raise RuntimeError(result.stderr)
    numbers, frameworks = result.stdout.splitlines()
    return Cost(*json.loads(numbers), frameworks)


def median(source: Path, target: Path, to: str = "") -> Cost:
    """The median of `RUNS` conversions, number by number."""
    costs = [convert(source, target, to) for _ in range(RUNS)]
    numbers = ([getattr(c, name) for c in costs] for name in ("read", "write", "memory"))
    return Cost(*map(statistics.median, numbers), costs[0].frameworks)


# --- the files, each made in a process of its own --------------------------------------------

Source = tuple[str, Callable[[Path], bytes | memoryview | None]]


def _sources() -> dict[str, Source]:
    """What is read: the file's name, and how it is made."""
    from tests.weights import makers
    from tests.weights.test_torch_files import saved, state, tarred

    tv, caffe = "torchvision", "caffe"
    return {
        "`.pth`, zip": ("a.pth", lambda _: saved(state(full(tv)))),
        "`.pth` before torch 1.6": ("a.pth", lambda _: saved(state(full(tv)), False)),
        "`.pth`, tar of 2016": ("a.pth", lambda _: tarred(state(full(tv)))),
        "`.safetensors`": ("a.safetensors", lambda path: save(path, full(tv))),
        "`.safetensors`, torch's": (
            "a.safetensors", lambda path: save(path, full(tv), "torch-safetensors")),
        "`.msgpack`": ("a.msgpack", lambda path: save(path, full(tv))),
        "`.onnx` of the zoo": ("a.onnx", lambda _: makers.onnx_zoo(full("onnx_zoo"))),
        "`.onnx` of torch, in two files": ("a.onnx", _onnx_in_two_files),
        "`.onnx` of this project": ("a.onnx", lambda path: save(path, full(tv))),
        "`.caffemodel`, V1": ("a.caffemodel", lambda _: makers.caffemodel(full(caffe), 1)),
        "`.caffemodel`, V2": ("a.caffemodel", lambda _: makers.caffemodel(full(caffe), 2)),
        "`.npy`, Python 2": ("a.npy", lambda _: makers.npy_of_python_2(full(caffe))),
        "`.npy`, protocol 2": ("a.npy", lambda _: makers.npy(full(caffe), 2)),
        "`.npy`, protocol 3": ("a.npy", lambda _: makers.npy(full(caffe), 3)),
        "`.npy`, protocol 4": ("a.npy", lambda _: makers.npy(full(caffe), 4)),
        "`.mat`": ("a.mat", lambda _: makers.matconvnet(full(caffe), False)),
        "`.mat`, compressed": ("a.mat", lambda _: makers.matconvnet(full(caffe))),
    }  # fmt: skip


def full(name: str) -> Weights:
    """Random weights of a variant at full width."""
    from alexnet.spec import variant
    from tests.weights.helpers import random_weights

    return random_weights(variant(name))


def _onnx_in_two_files(path: Path) -> None:
    import onnx

    from tests.weights import makers

    model, beside = makers.onnx_dynamo(full("single")), f"{path.name}.data"
    onnx.save_model(model, path, save_as_external_data=True, location=beside)


def make(label: str, path: Path) -> None:
    """Make a source, in a process of its own: its memory goes with it."""
    code = "import sys; from tests.weights.cost import write_source; write_source(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, label, str(path)], check=True)


def write_source(label: str, path: str) -> None:
    """What `make` runs."""
    data = _sources()[label][1](Path(path))
    if data is not None:
        Path(path).write_bytes(data)


# --- the table -------------------------------------------------------------------------------


def conditions() -> str:
    """The machine and the versions."""
    libraries = ("msgpack", "safetensors", "onnx")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, one thread; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, {versions}; "
        f"medians of {RUNS}."
    )


def header(first: str, half: str) -> str:
    """The first two lines of a table."""
    return f"\n| {first} | file | {half} | in all | memory | times the file |\n|{'---|' * 6}"


def row(label: str, size: int, half: float, cost: Cost) -> str:
    """A line of a table; `size` is the file's, in bytes."""
    return (
        f"| {label} | {size / 1e6:.0f} MB | {half:.2f} s | {cost.read + cost.write:.2f} s "
        f"| {cost.memory / 1e6:.0f} MB | {cost.memory / size:.2f} |"
    )


def reading(folder: Path, words: Sequence[str]) -> None:
    """Print what reading costs, of all formats or of those with one of these words in them."""
    target = folder / "out.safetensors"
    print(header("read, then written as `.safetensors`", "reading"))
    for label, (name, _) in _sources().items():
        if words and not any(word in label for word in words):
            continue
        parts = [folder / name, folder / f"{name}.data"]
        make(label, parts[0])
        cost = median(parts[0], target)
        size = sum(part.stat().st_size for part in parts if part.exists())
        print(row(label, size, cost.read, cost), flush=True)
        for part in parts:
            part.unlink(missing_ok=True)


def writing(folder: Path) -> None:
    """Print what writing costs."""
    source, target = folder / "source.safetensors", folder / "target"
    save(source, full("torchvision"))
    print(header("written, from `.safetensors`", "writing"))
    for format in WRITABLE:
        cost = median(source, target, to=format)
        size = target.stat().st_size
        print(row(f"`{format}`", size, cost.write, cost), flush=True)


def main(words: Sequence[str]) -> int:
    """Print both tables, or of the first one the rows with one of these words in them."""
    print(conditions())
    with tempfile.TemporaryDirectory() as folder:
        reading(Path(folder), words)
        if not words:
            writing(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
