"""The formats of weights files, and the modules that read and write them.

A format's module has `read(file)` and `write(file, weights)`, or one of the two. It is imported
when it is needed: training loads no reader of other programs' files, nor the libraries behind it.
"""

import struct
import zlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from alexnet.errors import UserError, choose
from alexnet.files import atomic_write, check_path, open_file
from alexnet.preprocess import Preprocess
from alexnet.weights import table
from alexnet.weights.assemble import complete
from alexnet.weights.core import Weights, check
from alexnet.weights.detection import format_of
from alexnet.weights.names import TORCHVISION_KEYS, torch_keys
from alexnet.weights.precision import STORED, Dtype, check_range

# Format to its module in this package.
_READERS = {
    "safetensors": "canonical",  # this project's weights file
    "torchvision": "torch_read",  # torch state dict with torchvision's keys (.pth)
    "torch": "torch_read",  # torch state dict with this project's keys (.pth)
    "torch-safetensors": "torch_safetensors",
    "flax": "flax_msgpack",
    "onnx": "onnx_read",
    "caffe": "caffemodel",
    "npy": "bvlc_npy",  # bvlc_alexnet.npy of the Toronto TensorFlow AlexNet
    "matconvnet": "matconvnet",  # imagenet-caffe-alex.mat
}
_WRITERS = {
    "safetensors": "canonical",
    "torchvision": "torch_write",
    "torch": "torch_write",
    "torch-safetensors": "torch_safetensors",
    "flax": "flax_msgpack",
    "onnx": "onnx_write",
}
DESCRIBING = ("safetensors", "onnx")  # hold preprocessing and class names
FORMATS, WRITABLE = tuple(_READERS), tuple(_WRITERS)
_MOST = 1500  # characters of an error: a file chooses the names in it
_SUFFIXES = {
    ".safetensors": "safetensors", ".pth": "torch", ".pt": "torch", ".onnx": "onnx",
    ".msgpack": "flax",
}  # fmt: skip
# Errors that damaged lengths, numbers and text can raise in the libraries below the readers.
MALFORMED = (ValueError, LookupError, ArithmeticError, struct.error, zlib.error, MemoryError)


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
        path: a regular file. Orbax directories are read elsewhere.
        format: one of `FORMATS`; by default detected from the content.
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


def load_file(
    file: BinaryIO,
    format: str,
    where: str,
    variant: str | None = None,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
    folder: Path | None = None,
) -> Weights:
    """Weights from a seekable file that is open at its start.

    Error messages call it `where`. ONNX files may keep weights in a second file in `folder`. For
    the other arguments and the errors, see `load`.
    """
    read = _module(_READERS[format]).read
    try:
        if format == "safetensors":
            return agreeing(read(file), variant, image_size)
        found = read(file, folder) if format == "onnx" else read(file)
        return complete(found, "", variant, image_size, preprocess)
    except UserError as error:
        raise UserError(f"{where} can't be read as {format}: {error!s:.{_MOST}}") from error
    except MALFORMED as error:
        text = str(error)[:200] or type(error).__name__
        shown = "".join(char if char.isprintable() else " " for char in text)
        raise UserError(f"{where} is damaged, or not {format}: {shown}") from error


def _module(name: str) -> Any:
    return import_module(f"alexnet.weights.{name}")


def agreeing(weights: Weights, variant: str | None, image_size: int | None) -> Weights:
    """Return self-describing weights if they match the variant and size asked for.

    Raises:
        UserError: where they don't.
    """
    spec = weights.spec
    if variant not in (None, spec.name) or image_size not in (None, spec.image_size):
        raise UserError(
            f"it is '{spec.name}' for {spec.image_size} pixels, as it says itself, not "
            f"'{variant or spec.name}' for {image_size or spec.image_size}"
        )
    return weights


def save(
    path: str | Path, weights: Weights, format: str | None = None, dtype: Dtype = "fp32"
) -> None:
    """Write weights, whole or not at all.

    Args:
        path: the file; an existing one is replaced.
        weights: the weights to write.
        format: one of `WRITABLE`; by default taken from the suffix.
        dtype: of the numbers in the file.

    Raises:
        UserError: for a format that is unknown or can't hold these weights.
    """
    check_path(path)
    if not isinstance(weights, Weights):
        raise UserError(
            f"alexnet.weights.Weights are needed, not {type(weights).__name__}: "
            "Weights(model.weights(), model.spec, preprocess), for one"
        )
    format = format or from_suffix(path, weights)
    if choose("format", format, FORMATS) not in WRITABLE:
        raise UserError(f"{format} is read only; written are {', '.join(WRITABLE)}")
    choose("dtype", dtype, STORED)
    check(weights.arrays, weights.spec)
    check_range(weights.arrays, dtype)
    if format == "torchvision" and weights.spec.name != "torchvision":
        raise UserError(
            f"torchvision's keys are for variant 'torchvision', and these weights are "
            f"'{weights.spec.name}': write them as torch, with this project's keys"
        )
    table.to_json(weights.spec)  # raises where the network could not be read back
    with atomic_write(path) as file:
        write(file, weights, format, dtype)


def write(file: BinaryIO, weights: Weights, format: str, dtype: Dtype = "fp32") -> None:
    """Write checked weights to a file that is open at its start."""
    keys = {"torchvision": (TORCHVISION_KEYS,), "torch": (torch_keys(weights.spec),)}
    _module(_WRITERS[format]).write(file, weights, *keys.get(format, ()), dtype=dtype)


def from_suffix(path: str | Path, weights: Weights) -> str:
    """The format in which weights are written to a file of this name.

    Raises:
        UserError: for a suffix of no known format.
    """
    path = Path(path)
    format = _SUFFIXES.get(path.suffix.lower())
    if format is None:
        raise UserError(
            f"no format is known by the name of {path.name}: end it in {', '.join(_SUFFIXES)}, "
            f"or say which of {', '.join(WRITABLE)} it is to be"
        )
    # torchvision's network is wanted under torchvision's names.
    return "torchvision" if format == "torch" and weights.spec.name == "torchvision" else format


def detect(path: str | Path) -> str:
    """Detect the format of a file from its content.

    Raises:
        UserError: for a file that is missing or of no known format.
    """
    with open_file(path) as file:
        return detect_file(file, path)


def detect_file(file: BinaryIO, path: str | Path) -> str:
    """The format of a seekable file that is open at its start, and is left there; see `detect`."""
    format = format_of(file, path)
    if format is None:
        raise UserError(
            f"{path} is none of the formats that are read ({', '.join(FORMATS)}), or damaged at "
            "its start: `alexnet convert --from FORMAT` tells what is wrong with it"
        )
    return format
