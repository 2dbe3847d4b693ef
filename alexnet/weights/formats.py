"""Which formats there are, told from a file's content, and the way to each one's reader."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from alexnet.errors import UserError, choose
from alexnet.files import atomic_write, open_file, read_all
from alexnet.preprocess import Preprocess
from alexnet.weights import (
    bvlc_npy,
    caffemodel,
    canonical,
    deep_compression,
    flax_msgpack,
    matconvnet,
    onnx_read,
    onnx_write,
    safetensors,
    torch_read,
    torch_tar,
    torch_write,
)
from alexnet.weights.assemble import Found, complete
from alexnet.weights.core import Weights, check, spec_to_json
from alexnet.weights.layout import to_torch
from alexnet.weights.names import TORCH_KEYS, TORCHVISION_KEYS

# Format to what it is; those that can be written have a row in _WRITERS.
FORMATS = {
    "safetensors": "this project's weights file",
    "torchvision": "torch state dict with torchvision's keys (.pth)",
    "torch": "torch state dict with this project's keys (.pth)",
    "torch-safetensors": "safetensors with torch's keys",
    "flax": "Flax parameters as msgpack",
    "onnx": "ONNX model",
    "caffe": "Caffe model (.caffemodel)",
    "npy": "bvlc_alexnet.npy of the Toronto TensorFlow AlexNet",
    "matconvnet": "MatConvNet model (imagenet-caffe-alex.mat)",
    "deep-compression": "AlexNet_compressed.net of Deep Compression",
}
_SUFFIXES = {
    ".safetensors": "safetensors", ".pth": "torch", ".pt": "torch", ".onnx": "onnx",
    ".msgpack": "flax",
}  # fmt: skip
_MATLAB = b"MATLAB"
# What damaged bytes can raise in the libraries below the readers: their lengths, numbers and text.
_MALFORMED = (ValueError, LookupError, ArithmeticError, struct.error, zlib.error, MemoryError)


def load(
    path: str | Path,
    format: str | None = None,
    *,
    variant: str | None = None,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
) -> Weights:
    """Weights from a file of any format, as canonical arrays.

    Args:
        path: the file. Orbax directories are read elsewhere.
        format: one of `FORMATS`; told from the content by default.
        variant: the network, for files that leave it open (shapes that several variants have).
        image_size: height and width of the input, likewise.
        preprocess: how images are prepared, for files that don't say.

    Raises:
        UserError: for a file that is missing, damaged, of an unknown format or another network,
            listing all that is missing, unexpected or misshapen.
    """
    if format is not None:
        choose("format", format, FORMATS)
    with open_file(path) as file:
        format = format or detect_file(file, path)
        weights = load_file(
            file, format, str(path), variant, image_size, preprocess, Path(path).parent
        )
    return replace(weights, source=weights.source or f"{Path(path).name} ({format})")


def load_data(data: memoryview, format: str, where: str, variant: str | None = None) -> Weights:
    """What `load` does, for bytes in memory; `where` they are from is for messages."""
    return load_file(io.BytesIO(data), format, where, variant)


def load_file(
    file: BinaryIO,
    format: str,
    where: str,
    variant: str | None = None,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
    folder: Path | None = None,
) -> Weights:
    """What `load` does, for a file that is open at its start.

    `where` it is from is for messages. ONNX files may keep weights in a second file in `folder`.
    """
    try:
        if format == "safetensors":
            return _agreeing(canonical.read(read_all(file)), variant, image_size)
        found = onnx_read.read(file, folder) if format == "onnx" else _READERS[format](file)
        return complete(found, "", variant, image_size, preprocess)
    except UserError as error:
        raise UserError(f"{where} can't be read as {format}: {error}") from error
    except _MALFORMED as error:
        shown = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{where} is damaged, or not {format}: {shown}") from error


def _agreeing(weights: Weights, variant: str | None, image_size: int | None) -> Weights:
    """Canonical weights, where they are those asked for."""
    spec = weights.spec
    if variant not in (None, spec.name) or image_size not in (None, spec.image_size):
        raise UserError(
            f"it is '{spec.name}' for {spec.image_size} pixels, as it says itself, not "
            f"'{variant or spec.name}' for {image_size or spec.image_size}"
        )
    return weights


def save(path: str | Path, weights: Weights, format: str | None = None) -> None:
    """Write weights, whole or not at all.

    Args:
        path: the file; one that is there is replaced.
        weights: what to write.
        format: one of those of `FORMATS` that can be written; told from the suffix by default.

    Raises:
        UserError: for a format that is unknown or can't hold these weights.
    """
    format = format or _from_suffix(Path(path), weights)
    if choose("format", format, FORMATS) not in WRITABLE:
        raise UserError(f"{format} is read only; written are {', '.join(WRITABLE)}")
    check(weights.arrays, weights.spec)
    if format == "torchvision" and weights.spec.name != "torchvision":
        raise UserError(
            f"torchvision's keys are for variant 'torchvision', and these weights are "
            f"'{weights.spec.name}': write them as torch, with this project's keys"
        )
    spec_to_json(weights.spec)  # raises where the network could not be told again
    with atomic_write(path) as file:
        _WRITERS[format](file, weights)


def _from_suffix(path: Path, weights: Weights) -> str:
    format = _SUFFIXES.get(path.suffix.lower())
    if format is None:
        raise UserError(
            f"no format is known by the name of {path.name}: end it in {', '.join(_SUFFIXES)}, "
            f"or say which of {', '.join(WRITABLE)} it is to be"
        )
    # torchvision's network is wanted under torchvision's names.
    return "torchvision" if format == "torch" and weights.spec.name == "torchvision" else format


def detect(path: str | Path) -> str:
    """The format of a file, told from its content.

    Raises:
        UserError: for a file that is missing or of no format known.
    """
    with open_file(path) as file:
        return detect_file(file, path)


def detect_file(file: BinaryIO, path: str | Path) -> str:
    """What `detect` does, for a file that is open at its start, and stays there."""
    format = detect_data(read_all(file), path)
    file.seek(0)
    return format


def detect_data(data: memoryview, path: str | Path) -> str:
    """What `detect` does, for bytes in memory."""
    if not data:
        raise UserError(f"{path} is empty")
    head = bytes(data[:600])
    if safetensors.header_size(head):
        return "safetensors" if canonical.is_canonical(data) else "torch-safetensors"
    if head[:4] == b"PK\3\4" or torch_read.is_row(head) or torch_tar.is_tar(head):
        return "torch"
    if head[:6] == bvlc_npy.MAGIC:
        return "npy"
    if head[:6] == _MATLAB:
        return "matconvnet"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        raise UserError(
            f"{path} is an HDF5 file (Keras, or MATLAB's -v7.3), which is not read: save it "
            "from MATLAB with -v7, or from Keras as .npy"
        )
    if flax_msgpack.looks_like(head):
        return "flax"
    if deep_compression.looks_like(head, len(data)):
        return "deep-compression"
    if onnx_read.looks_like(head):
        return "onnx"
    if caffemodel.looks_like(data):
        return "caffe"
    raise UserError(
        f"{path} is none of the formats that are read ({', '.join(FORMATS)}), or damaged at its "
        "start: say which it is to see what is wrong with it"
    )


def _read_torch_safetensors(data: memoryview) -> Found:
    header = safetensors.parse_header(data, len(data))
    return torch_read.from_state_dict(dict(safetensors.arrays(data, header)))


def _write_torch_safetensors(file: BinaryIO, weights: Weights) -> None:
    keys = TORCHVISION_KEYS if weights.spec.name == "torchvision" else TORCH_KEYS
    stored = list(to_torch(weights))
    shapes = {keys[array.name]: array.shape for array in stored}
    file.write(safetensors.encode_header(shapes, {"format": "pt"}))  # what Hugging Face looks for
    for array in stored:
        for block in safetensors.blocks(array.values):
            file.write(block)


def _from_bytes(read: Callable[[memoryview], Found]) -> Callable[[BinaryIO], Found]:
    """A reader of an open file out of one that takes the file's bytes."""

    def read_file(file: BinaryIO) -> Found:
        return read(read_all(file))

    return read_file


# Each takes a regular file, open at its start.
_READERS: dict[str, Callable[[BinaryIO], Found]] = {
    "torchvision": _from_bytes(torch_read.read),
    "torch": _from_bytes(torch_read.read),
    "torch-safetensors": _from_bytes(_read_torch_safetensors),
    "flax": _from_bytes(flax_msgpack.read),
    "caffe": _from_bytes(caffemodel.read),
    "npy": _from_bytes(bvlc_npy.read),
    "matconvnet": matconvnet.read,
    "deep-compression": _from_bytes(deep_compression.read),
}
_WRITERS: dict[str, Callable[[BinaryIO, Weights], None]] = {
    "safetensors": canonical.write,
    "torchvision": lambda file, weights: torch_write.write(file, weights, TORCHVISION_KEYS),
    "torch": lambda file, weights: torch_write.write(file, weights, TORCH_KEYS),
    "torch-safetensors": _write_torch_safetensors,
    "flax": flax_msgpack.write,
    "onnx": onnx_write.write,
}
WRITABLE = tuple(_WRITERS)
