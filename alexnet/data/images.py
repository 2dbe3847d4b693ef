"""Decoding: 8-bit pixels from an image file of any format and color mode.

JPEG goes through simplejpeg, which is faster than Pillow and gives the same pixels; everything
else, and every JPEG that simplejpeg refuses, goes through Pillow. EXIF orientation is ignored, as
in torchvision's loaders.

Very large images, which take a gigabyte or more, are decoded one at a time, whatever the number of
threads, and returned at half their size.
"""

import contextlib
import io
import threading
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from alexnet.errors import RunError
from alexnet.files import first_bytes, is_remote

# Pillow's limit for decompression bombs, applied here to every decoder.
MAX_PIXELS = 178_956_970
MAX_BYTES = 256 * 2**20
# Beyond the largest cameras in use: images of more pixels are halved, all others are left alone.
LARGE = 1 << 26
_one_large = threading.Lock()
# A white JPEG has some 500 pixels a byte. A small file that claims more only wastes memory.
MAX_PIXELS_PER_BYTE = 1000
SMALL = 1 << 24  # pixels that any file may have
_LONGEST = 200  # characters of a decoder's own message
MAX_RATIO = 200  # long side over short: scaling the short side up would blow up the long one
# Other formats that Pillow opens run programs (EPS) or are too rare to be worth trusting.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class BadImage(Exception):
    """An image that can't be read; the message is one sentence without the file's name."""


def decode(image: np.ndarray | bytes | Path, channels: int) -> np.ndarray:
    """Decode an image to uint8, H x W x `channels` (3 is RGB, 1 is gray).

    `image` is a uint8 array (HxW or HxWxC), an encoded image, or the path of one. Transparency is
    dropped, not blended, as in torchvision; 16-bit gray is scaled to 8 bits.

    Raises:
        BadImage: for anything that can't be read.
        RunError: if a bucket can't be reached: all other images would fail as well.
    """
    if isinstance(image, PurePath):
        image = _read(image)
    if not isinstance(image, np.ndarray):
        if not image:
            raise BadImage("the file is empty")
        pixels = _decode_jpeg(image, channels)
        return _decode_other(image, channels) if pixels is None else pixels
    pixels = image if image.ndim == 3 else image[:, :, None]
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, channels, axis=2)
    if pixels.shape[2] > 4:
        raise BadImage(f"it is of shape {pixels.shape}: give H x W x C, of at most four channels")
    from PIL import Image

    return _to_channels(Image.fromarray(pixels), channels)


def _read(path: Path) -> bytes:
    try:
        if not is_remote(path) and path.exists() and not path.is_file():
            raise BadImage("it is not a regular file")  # reading a pipe could block forever
        data = first_bytes(path, MAX_BYTES + 1)
    except OSError as error:
        if is_remote(path) and not isinstance(error, FileNotFoundError):
            raise RunError(f"can't read {path}: {error.strerror}") from error  # so would all others
        raise BadImage(f"the file can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise BadImage(f"the file is larger than {MAX_BYTES >> 20} MiB")
    return data


def _check_size(width: int, height: int, size: int) -> bool:
    """Check the size in the header of a file of `size` bytes; return True if it is very large.

    Raises:
        BadImage: for an image that is too large, too elongated, or implausible for its bytes.
    """
    short, long = sorted((width, height))
    if short < 1 or width * height > MAX_PIXELS or long > MAX_RATIO * short:
        raise BadImage(
            f"its header says {width} x {height} pixels; the most is {MAX_PIXELS:,} pixels, and "
            f"{MAX_RATIO} times as long as wide"
        )
    if width * height > max(SMALL, MAX_PIXELS_PER_BYTE * size):
        raise BadImage(f"its header says {width} x {height} pixels, but it has only {size:,} bytes")
    return width * height > LARGE


def _in_turn(large: bool) -> contextlib.AbstractContextManager[object]:
    """A context that, for a very large image, waits until no other one is being decoded."""
    return _one_large if large else contextlib.nullcontext()


def _decode_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """Pixels of a plain JPEG; None for anything else."""
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        large = _check_size(width, height, len(data))
        if colorspace in ("CMYK", "YCCK"):  # simplejpeg's conversion is not Pillow's
            return None
        least = {"min_height": height // 2, "min_width": width // 2} if large else {}
        with _in_turn(large):
            return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", **least)
    except ValueError:
        return None  # broken, or just unusual: Pillow decides


def _decode_other(data: bytes, channels: int) -> np.ndarray:
    """Pixels of an image in any of FORMATS, through Pillow."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            large = _check_size(*image.size, len(data))
            with _in_turn(large):
                pixels = _to_channels(image, channels)
                return _halved(pixels) if large else pixels
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"it is not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # on broken files Pillow's decoders raise nearly anything
        reason = str(error).rstrip(".")[:_LONGEST] or type(error).__name__
        raise BadImage(f"decoding failed: {reason}") from error


def _to_channels(image: Any, channels: int) -> np.ndarray:
    """Pixels of a Pillow image of any mode, uint8 H x W x channels."""
    if image.mode.startswith("I") or image.mode == "F":
        gray = _wide_to_8_bit(np.asarray(image), image.mode)[:, :, None]
        return np.repeat(gray, channels, axis=2)
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow has no direct way to RGB that keeps their colors
    target = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _halved(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    gray = pixels.shape[2] == 1
    half = np.asarray(Image.fromarray(pixels[:, :, 0] if gray else pixels).reduce(2))
    return half[:, :, None] if gray else half


def _wide_to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale gray values of more than 8 bits so that white stays white.

    White is 65535 for integers; for floats it is 1, or 255 if any value is above 1.
    """
    values = np.nan_to_num(values.astype(np.float64))
    white = 65535 if mode != "F" else 1 if values.max() <= 1 else 255
    return np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
