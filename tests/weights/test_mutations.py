"""Two thousand damaged files for every reader: each is refused in one line, or read as weights."""

import io
import resource
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch

from alexnet.errors import UserError
from alexnet.weights import check
from alexnet.weights.formats import detect_file

from . import makers
from .helpers import images, load_data, narrow, same, written
from .test_onnx_exports import Net, exported
from .test_torch_files import saved, state, tarred

COUNT = 2000


def mutate(random: np.random.Generator, data: bytes, structure: np.ndarray) -> memoryview:
    """One damaged copy; most damage hits `structure`, the places that are not plain numbers."""
    bad = bytearray(data)

    def place() -> int:
        if random.random() < 0.9:
            return int(structure[random.integers(len(structure))])
        return int(random.integers(len(data)))

    match random.integers(8):
        case 0 | 1:
            bad[place()] ^= 1 << int(random.integers(8))
        case 2:
            for _ in range(random.integers(1, 6)):
                bad[place()] = int(random.integers(256))
        case 3:
            extremes = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)
            value = struct.pack("<Q", extremes[random.integers(len(extremes))])
            at, size = place(), int(random.choice([1, 2, 4, 8]))
            bad[at : at + size] = value[:size]
        case 4:
            del bad[place() :]
        case 5:
            at = place()
            del bad[at : at + int(random.integers(1, 20))]
        case 6:
            at, other = place(), place()
            bad[at:at] = bad[other : other + int(random.integers(1, 40))]
        case 7:
            at, other = place(), place()
            size = int(random.integers(1, 40))
            bad[at : at + size] = bad[other : other + size]
    return memoryview(bad)


def structure_of(data: bytes, weights) -> np.ndarray:
    """Places that don't hold the numbers of one of the larger arrays."""
    free = np.ones(len(data), bool)
    for array in weights.arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1)
        # the same numbers in any order: look for runs of known values
        known = set(np.ascontiguousarray(flat).view("u4").tolist())
        if len(known) < 16:
            continue
        for offset in range(4):
            words = np.frombuffer(data[offset : offset + (len(data) - offset) // 4 * 4], "<u4")
            hits = np.isin(words, list(known))
            for shift in range(4):
                free[offset + shift :: 4][: len(hits)][hits] = False
    return np.flatnonzero(free)


def attack(data: bytes, weights, read, seed: int, count: int = COUNT, rebuild=bytes) -> None:
    """Read `count` damaged files; whatever is read must be weights."""
    random = np.random.default_rng(seed)
    structure = structure_of(data, weights)
    assert len(structure) > 30
    same(weights, read(memoryview(bytearray(rebuild(data)))))
    refused, slowest, messages = 0, 0.0, set()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        bad = memoryview(bytearray(rebuild(bytes(mutate(random, data, structure)))))
        start = time.process_time()
        try:
            again = read(bad)
            check(again.arrays, again.spec)
        except UserError as error:
            refused += 1
            messages.add(str(error))
        slowest = max(slowest, time.process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{refused} of {count} refused, slowest in {slowest:.2f} s, memory grew {grown:.0f} MiB")
    assert all(len(message.splitlines()) == 1 and len(message) < 5000 for message in messages)
    assert grown < 150
    assert refused > count / 10
    assert slowest < 5


def reader(format: str, variant: str | None = None):
    return lambda data: load_data(data, format, "w", variant)


CASES = {
    "safetensors": lambda: (narrow("torchvision"), "safetensors", None),
    "torch-safetensors": lambda: (narrow("torchvision"), "torch-safetensors", None),
    "flax": lambda: (narrow("torchvision"), "flax", "torchvision"),
    "onnx-own": lambda: (narrow("torchvision", image_size=64), "onnx", None),
}


@pytest.mark.parametrize("case", CASES)
def test_formats_written_here(case):
    weights, format, variant = CASES[case]()
    attack(bytes(written(weights, format)), weights, reader(format, variant), 1)


def test_canonical_files_never_come_back_changed():
    """With digests there is a third answer less: refused, or exactly what was written."""
    weights = narrow("torchvision", num_classes=2)
    data = bytes(written(weights, "safetensors"))
    random = np.random.default_rng(2)
    for _ in range(COUNT):
        try:
            again = load_data(mutate(random, data, np.arange(len(data))), "safetensors", "w")
        except UserError:
            continue
        same(weights, again)
        assert again.preprocess == weights.preprocess
        assert again.class_names == weights.class_names


@pytest.mark.parametrize("version", [1, 2])
def test_caffe(version):
    weights = narrow("caffe")
    attack(makers.caffemodel(weights, version), weights, reader("caffe"), 3, COUNT)


def test_onnx_zoo():
    weights = narrow("onnx_zoo")
    attack(makers.onnx_zoo(weights), weights, reader("onnx"), 4)


def test_onnx_with_lrn_written_out(tmp_path):
    """The parts that compute shapes and follow LRN, in what both of torch's exporters write."""
    weights = narrow("single")
    attack(makers.onnx_dynamo(weights).SerializeToString(), weights, reader("onnx"), 14)
    net = Net("single", torch.nn.LocalResponseNorm(5, k=2.0))
    data = exported(net, images(weights.spec), tmp_path / "a.onnx", 13, "any")
    attack(data, reader("onnx")(memoryview(data)), reader("onnx"), 15)


@pytest.mark.parametrize("protocol", [None, 2])
def test_npy(protocol):
    weights = narrow("caffe")
    attack(makers.npy(weights, protocol), weights, reader("npy"), 5, COUNT)


def test_matconvnet():
    weights = narrow("caffe")
    data = makers.matconvnet(weights, compressed=False, mean="value")
    attack(data, weights, reader("matconvnet"), 6)


def test_matconvnet_compressed():
    weights = narrow("caffe")
    data = makers.matconvnet(weights, compressed=True, mean="value")
    attack(data, weights, reader("matconvnet"), 7, 500)


def test_torch_row():
    weights = narrow("torchvision")
    attack(bytes(saved(state(weights), False)), weights, reader("torch"), 9)


def test_torch_tar():
    weights = narrow("torchvision")
    attack(bytes(tarred(state(weights))), weights, reader("torch"), 10)


def test_torch_zip():
    weights = narrow("torchvision")
    attack(bytes(saved(state(weights))), weights, reader("torch"), 11)


def test_torch_pickle_inside_a_sound_zip():
    """Damage to the pickle alone, checksums made right again: it is the reader that must hold."""
    weights = narrow("torchvision")
    with zipfile.ZipFile(io.BytesIO(saved(state(weights)))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickle_name = next(name for name in files if name.endswith("data.pkl"))

    def rebuild(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, value in (files | {pickle_name: content}).items():
                archive.writestr(name, value)
        return file.getvalue()

    attack(files[pickle_name], weights, reader("torch"), 12, COUNT, rebuild)


def test_matconvnet_inside_a_sound_compression():
    """Damage to the layers before they are compressed, so that unpacking them works."""
    weights = narrow("caffe")
    plain = makers.matconvnet(weights, compressed=False, mean="value")
    end = 136 + struct.unpack_from("<2I", plain, 128)[1]

    def rebuild(layers: bytes) -> bytes:
        packed = zlib.compress(layers, 0)
        return plain[:128] + struct.pack("<2I", 15, len(packed)) + packed + plain[end:]

    attack(plain[128:end], weights, reader("matconvnet"), 13, COUNT, rebuild)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_format(seed):
    random = np.random.default_rng(seed)
    magics = [
        b"PK\3\4", b"\x93NUMPY\1\0", b"MATLAB 5.0", b"\x81\xa6params", b"\x80\x02\x8a\x0a",
        b"\x08\x07", b"\x0a\x07AlexNet\x12", b"storages\0", b"\x40" + bytes(7) + b"{", b"",
    ]  # fmt: skip
    for _ in range(300):
        magic = magics[random.integers(len(magics))]
        data = memoryview(bytearray(magic + random.bytes(int(random.integers(0, 700)))))
        try:
            format = detect_file(io.BytesIO(data), "w")
        except UserError:
            continue
        with pytest.raises(UserError):
            load_data(data, format, "w")
