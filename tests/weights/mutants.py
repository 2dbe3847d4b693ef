"""Damaged copies of weights files, in all formats that are read."""

import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from alexnet.preprocess import with_mean_image
from alexnet.weights import Weights

from . import makers
from .helpers import images, load_data, narrow, side, written
from .test_onnx_exports import Net, exported
from .test_torch_files import saved, state, tarred


@dataclass
class Subject:
    """A sound file, and how it is read."""

    data: bytes
    weights: Weights  # what it holds
    format: str
    variant: str | None = None
    rebuild: Callable[[bytes], bytes] = bytes  # the file around `data`, which may be a part of it

    def read(self, data: bytes | memoryview) -> Weights:
        """Read a copy of `data` that may be damaged."""
        whole = self.rebuild(bytes(data))
        return load_data(memoryview(bytearray(whole)), self.format, "w", self.variant)


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


def structure_of(data: bytes, weights: Weights) -> np.ndarray:
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


def _own(format: str, variant: str | None = None, **sizes) -> Subject:
    weights = narrow("torchvision", **sizes)
    return Subject(bytes(written(weights, format)), weights, format, variant)


def _with_mean_image() -> Subject:
    """The network of 2012, whose table has all that others have not."""
    weights = narrow("krizhevsky2012", image_size=side("krizhevsky2012", 64))
    preprocess, pixels = weights.preprocess, weights.spec.image_size
    image = np.random.default_rng(0).uniform(90, 140, (pixels, pixels, 3)).astype("f4")
    normalize = with_mean_image(preprocess.normalize, image)
    weights = replace(weights, preprocess=replace(preprocess, normalize=normalize))
    return Subject(bytes(written(weights, "safetensors")), weights, "safetensors")


def _onnx_dynamo() -> Subject:
    weights = narrow("single")
    return Subject(makers.onnx_dynamo(weights).SerializeToString(), weights, "onnx")


def _onnx_older_exporter() -> Subject:
    net = Net("single", torch.nn.LocalResponseNorm(5, k=2.0))
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "a.onnx"
        data = exported(net, images(narrow("single").spec), where, 13, "any")
    subject = Subject(data, narrow("single"), "onnx")
    subject.weights = subject.read(data)
    return subject


def _torch_pickle() -> Subject:
    """The pickle alone, checksums made right again: it is the reader that must hold."""
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

    return Subject(files[pickle_name], weights, "torch", None, rebuild)


def _matconvnet_layers() -> Subject:
    """The layers before they are compressed, so that unpacking them works."""
    weights = narrow("caffe")
    plain = makers.matconvnet(weights, compressed=False, mean="value")
    end = 136 + struct.unpack_from("<2I", plain, 128)[1]

    def rebuild(layers: bytes) -> bytes:
        packed = zlib.compress(layers, 0)
        return plain[:128] + struct.pack("<2I", 15, len(packed)) + packed + plain[end:]

    return Subject(plain[128:end], weights, "matconvnet", None, rebuild)


def _of(variant: str, make: Callable[[Weights], bytes], format: str) -> Callable[[], Subject]:
    def subject() -> Subject:
        weights = narrow(variant)
        return Subject(bytes(make(weights)), weights, format)

    return subject


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "safetensors": lambda: _own("safetensors"),
    "safetensors-2012": _with_mean_image,
    "torch-safetensors": lambda: _own("torch-safetensors"),
    "flax": lambda: _own("flax", "torchvision"),
    "onnx-own": lambda: _own("onnx", image_size=64),
    "onnx-zoo": _of("onnx_zoo", makers.onnx_zoo, "onnx"),
    "onnx-dynamo": _onnx_dynamo,
    "onnx-older-exporter": _onnx_older_exporter,
    "caffe-1": _of("caffe", lambda weights: makers.caffemodel(weights, 1), "caffe"),
    "caffe-2": _of("caffe", lambda weights: makers.caffemodel(weights, 2), "caffe"),
    "npy": _of("caffe", makers.npy, "npy"),
    "npy-protocol-2": _of("caffe", lambda weights: makers.npy(weights, 2), "npy"),
    "matconvnet": _of("caffe", lambda w: makers.matconvnet(w, False, "value"), "matconvnet"),
    "matconvnet-compressed": _of(
        "caffe", lambda weights: makers.matconvnet(weights, True, "value"), "matconvnet"
    ),
    "matconvnet-layers": _matconvnet_layers,
    "torch-row": _of("torchvision", lambda weights: saved(state(weights), False), "torch"),
    "torch-tar": _of("torchvision", lambda weights: tarred(state(weights)), "torch"),
    "torch-zip": _of("torchvision", lambda weights: saved(state(weights)), "torch"),
    "torch-pickle": _torch_pickle,
}
