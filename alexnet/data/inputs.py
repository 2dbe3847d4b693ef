"""One image as a network's input."""

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from alexnet.data.augment import eval_view
from alexnet.data.images import BadImage, decode
from alexnet.files import as_path
from alexnet.preprocess import Normalize, Preprocess


def network_input(
    image: np.ndarray | bytes | str | Path | Any, preprocess: Preprocess, channels: int
) -> np.ndarray:
    """A prepared image: float32 [S, S, channels], as the engines normalize their batches.

    Args:
        image: a path, an encoded image, uint8 pixels (H x W or H x W x C), or a Pillow image.
        preprocess: resizing, cropping and normalization.
        channels: number of channels of the network's input.

    Raises:
        BadImage: for anything that can't be read.
    """
    view = eval_view(
        decode(decodable(image), channels), preprocess.protocol, preprocess.normalize.channel_order
    )
    return normalized(view, preprocess.normalize)


def decodable(image: Any) -> np.ndarray | bytes | Path:
    """An image in a form that `images.decode` takes; a Pillow image becomes its pixels.

    Raises:
        BadImage: for anything else.
    """
    if isinstance(image, str | PurePath):
        return as_path(image)
    if isinstance(image, bytes):
        return image
    if hasattr(image, "convert"):
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise BadImage(
            f"it is {pixels.dtype} of shape {pixels.shape}: give uint8 pixels, H x W or H x W x C"
        )
    return pixels


def normalized(view: np.ndarray, normalize: Normalize) -> np.ndarray:
    """uint8 pixels to float32, (pixel - mean) / std, in the engines' own arithmetic."""
    scale = (1 / np.array(normalize.std)).astype(np.float32)
    return (view.astype(np.float32) - normalize.subtracted) * scale
