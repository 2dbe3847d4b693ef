"""From an image file's bytes to 8-bit pixels, the same for every format and colour mode.

JPEG goes through simplejpeg, which is faster and gives Pillow's pixels; everything else, and
every JPEG that simplejpeg refuses, goes through Pillow. EXIF orientation is ignored, as it is by
torchvision's loaders.
"""

import io
from pathlib import Path, PurePath

import numpy as np

from alexnet.errors import RunError
from alexnet.files import first_bytes, is_remote

# What Pillow takes for a decompression bomb; here it holds for every decoder.
MAX_PIXELS = 178_956_970
MAX_BYTES = 256 * 2**20
MAX_RATIO = 200  # long side over short: scaling the short side would blow the long one up
# Others that Pillow can open run programs (EPS) or are rare enough not to be worth trusting.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class BadImage(Exception):
    """An image that can't be read, as one sentence without the file's name."""


def decode(image: np.ndarray | bytes | Path, channels: int) -> np.ndarray:
    """The pixels of an image: uint8, H x W x `channels` (3 is RGB, 1 is gray).

    Takes a uint8 array (HxW or HxWxC), an encoded image or the path of one. Transparency is
    dropped and not blended, as torchvision does; 16-bit gray is scaled to 8 bits.

    Raises:
        BadImage: for whatever can't be read.
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
    from PIL import Image

    return _to_channels(Image.fromarray(pixels), channels)


def _read(path: Path) -> bytes:
    try:
        data = first_bytes(path, MAX_BYTES + 1)
    except OSError as error:
        if is_remote(path) and not isinstance(error, FileNotFoundError):
            raise RunError(f"can't read {path}: {error.strerror}") from error  # nor others, then
        raise BadImage(f"the file can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise BadImage(f"the file has more than {MAX_BYTES >> 20} MiB")
    return data


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < 1 or width * height > MAX_PIXELS or long > MAX_RATIO * short:
        raise BadImage(
            f"it says to be {width} x {height} pixels; the most is {MAX_PIXELS} in all, and "
            f"{MAX_RATIO} times as long as wide"
        )


def _decode_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """The pixels of a plain JPEG, None for anything else."""
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        if colorspace in ("CMYK", "YCCK"):  # simplejpeg's conversion is not Pillow's
            return None
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB")
    except ValueError:
        return None  # broken, or only unusual: Pillow decides


def _decode_other(data: bytes, channels: int) -> np.ndarray:
    """The pixels of any of FORMATS, through Pillow."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            return _to_channels(image, channels)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders meet broken files with nearly every kind of error
        reason = str(error).rstrip(".") or type(error).__name__
        raise BadImage(f"decoding failed: {reason}") from error


def _to_channels(image, channels: int) -> np.ndarray:
    """A Pillow image of any mode as uint8 H x W x channels."""
    if image.mode.startswith("I") or image.mode == "F":
        gray = _wide_to_8_bit(np.asarray(image), image.mode)[:, :, None]
        return np.repeat(gray, channels, axis=2)
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")  # these have no direct way to RGB that keeps the colours
    target = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _wide_to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Gray values of more than 8 bits, scaled so that white stays white.

    Integers are taken for 16 bits (65535 is white). Floats are taken for 0..1 unless one is
    larger, then for 0..255.
    """
    values = np.nan_to_num(values.astype(np.float64))
    white = 65535 if mode != "F" else 1 if values.max() <= 1 else 255
    return np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
