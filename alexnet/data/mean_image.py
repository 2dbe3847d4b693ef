"""Mean images, read from the usual file formats and cropped to the network's input.

The data providers of cuda-convnet and of the 2012 program subtract the center of the training
images' mean image from every view, wherever the view was cropped (convdata.py, `data_mean_crop`).
Caffe subtracts the part that lies under the view (data_transformer.cpp): for the center crop, the
same.
"""

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet import sealed
from alexnet.errors import UserError
from alexnet.files import open_file, read_all
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess, with_mean_image
from alexnet.preprocess import from_json as preprocess_from_json
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.text import printable

FILE = "mean_image.json"  # a run's own, in its work directory
STATISTICS = "statistics.npz"  # a cache's, by `alexnet prepare --statistics`
_LARGEST = 1 << 11  # pixels a side
_LARGEST_INPUT = 448  # a file's header has room for 500, besides a thousand class names
_MOST = 3 * 8 * _LARGEST**2 + (1 << 20)  # bytes of a file, or of its unpacked content
_PIECE = 1 << 16  # bytes unpacked at once


def with_image(normalize: Normalize, protocol: EvalProtocol, source: str) -> Normalize:
    """Add a mean image to a normalization.

    Args:
        normalize: the normalization of a network's input.
        protocol: resizing and crop; the mean image has the size of the resized image or of the
            crop.
        source: a cache with statistics, or their `.npz`; a `.npy` (H x W x C in R, G, B order, or
            Caffe's C x H x W in B, G, R); Caffe's `.binaryproto`; weights or a run with one.

    Raises:
        UserError: for a file that is damaged, or has no such image.
    """
    from alexnet.weights.formats import MALFORMED

    try:
        pixels = _read(source, len(normalize.mean))
        if normalize.channel_order == "BGR":
            pixels = pixels[:, :, ::-1]
        return with_mean_image(normalize, _center(pixels, protocol))
    except UserError as error:
        raise UserError(f"--mean-image {source}: {error}") from error
    except (*MALFORMED, OSError) as error:
        reason = printable(str(error) or type(error).__name__)
        raise UserError(f"--mean-image {source} is damaged: {reason:.200}") from error


def write(folder: Path, preprocess: Preprocess) -> None:
    """Save a run's preprocessing, which has a mean image, in its work directory."""
    sealed.write(folder / FILE, {"preprocess": preprocess_to_json(preprocess)})


def _read(source: str, channels: int) -> np.ndarray:
    """Read and check a mean image: [H, W, C] in R, G, B order."""
    from alexnet import hub

    path = hub.local(source)
    for name in (STATISTICS, FILE):
        if (path / name).is_file():
            path /= name
    if path.name == FILE:
        pixels = _of_run(path, channels)
    elif reader := _READERS.get(path.suffix.lower()):
        with open_file(path, _MOST) as file:
            pixels = reader(file)
    else:
        pixels = _of_weights(path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    height, width, depth = pixels.shape if pixels.ndim == 3 else (0, 0, 0)
    if height < 1 or height != width or depth != channels:
        shape = "x".join(map(str, pixels.shape))
        raise UserError(f"its shape is {shape}, and a square of {channels} channels is needed")
    if not (pixels.min() >= 0 and 1 < pixels.max() <= 255):  # phrased so that NaN fails, too
        raise UserError(
            f"its values go from {pixels.min():g} to {pixels.max():g}: they must be means of "
            "pixels in units of 0..255"
        )
    return pixels


def _center(pixels: np.ndarray, protocol: EvalProtocol) -> np.ndarray:
    """The part of a mean image that lies under the center crop, float32 [S, S, C]."""
    side, crop = len(pixels), protocol.crop
    if side not in (crop, protocol.resize_to):
        raise UserError(
            f"it has {side} pixels a side, and needed are the {protocol.resize_to} that images are "
            f"scaled to, or the {crop} of the network's input"
        )
    if crop > _LARGEST_INPUT:
        raise UserError(f"networks for more than {_LARGEST_INPUT} pixels have none: give --mean")
    first = round((side - crop) / 2)  # as in `augment`
    return pixels[first : first + crop, first : first + crop].astype(np.float32)


def _npy(file: BinaryIO) -> np.ndarray:
    """Read an array of floats; channels-first ones, as in ilsvrc_2012_mean.npy, are B, G, R."""
    from alexnet.weights.bvlc_npy import read_header

    size = file.seek(0, 2)
    shape, columns, dtype = read_header(file)
    if (
        dtype.kind not in "fu" or len(shape) not in (2, 3)
        or min(shape) < 1 or max(shape) > _LARGEST
    ):  # fmt: skip
        raise UserError(f"it holds {dtype} of shape {shape}: no image")
    if int(np.prod(shape)) * dtype.itemsize != size - file.tell():
        raise UserError("it is cut short or damaged: its size is not what its header says")
    found = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if columns else "C")
    return _channels_last(found)


def _npz(file: BinaryIO) -> np.ndarray:
    """Read the mean image from a cache's statistics."""
    from alexnet.weights.torch_read import Bounded

    try:
        with zipfile.ZipFile(Bounded(file)) as archive:
            info = archive.getinfo("mean_image.npy")
            if info.file_size > _MOST:
                raise UserError(f"its mean image unpacks to {info.file_size:,} bytes: too many")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError("it is packed in another way than NumPy packs")
            with archive.open(info) as part:  # a compressed file may unpack to more than it claims
                return _npy(io.BytesIO(b"".join(iter(lambda: part.read(_PIECE), b""))))
    except (zipfile.BadZipFile, KeyError, RuntimeError, EOFError) as error:
        raise UserError("it is damaged, encrypted, or has no 'mean_image'") from error


def _binaryproto(file: BinaryIO) -> np.ndarray:
    """Read Caffe's own mean image format, a BlobProto."""
    from alexnet.weights import wire
    from alexnet.weights.caffemodel import blob

    found = blob("mean image", wire.parse(read_all(file), 100))
    return _channels_last(found[0] if found.ndim == 4 and len(found) == 1 else found)


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] in R, G, B order, from that or from Caffe's [C, H, W] in B, G, R."""
    if pixels.ndim == 3 and len(pixels) in (1, 3) and pixels.shape[1] == pixels.shape[2]:
        return pixels[::-1].transpose(1, 2, 0)
    return pixels


def _of_run(path: Path, channels: int) -> np.ndarray:
    try:
        found = preprocess_from_json(sealed.read(path).get("preprocess"), channels)
    except (OSError, ValueError) as error:
        raise UserError(f"it can't be read: {error}") from error
    return _of(found.normalize)


def _of_weights(path: Path) -> np.ndarray:
    from alexnet import hub, weights

    if hub.is_folder(path):
        return _of(hub.read_folder(path).preprocess.normalize)
    if path.is_dir():
        raise UserError(f"it has no {STATISTICS} (`alexnet prepare --statistics`) and no {FILE}")
    return _of(weights.load(path).preprocess.normalize)


def _of(normalize: Normalize) -> np.ndarray:
    if not normalize.image:
        raise UserError("it has no mean image, only the mean of each channel")
    image = normalize.subtracted
    return image[:, :, ::-1] if normalize.channel_order == "BGR" else image


_READERS = {".npz": _npz, ".npy": _npy, ".binaryproto": _binaryproto}
