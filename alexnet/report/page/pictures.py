"""Pictures as data URIs, with a bounded number of pixels."""

import base64
import io
import math

import numpy as np

from alexnet.preprocess import ChannelOrder
from alexnet.report.page.html import Html, tag


def png(pixels: np.ndarray) -> str:
    """A PNG of uint8 H x W (gray), H x W x 3 or H x W x 4 (with transparency)."""
    return _uri(pixels, "PNG", optimize=True)


def jpeg(pixels: np.ndarray, longest: int) -> str:
    """A JPEG of uint8 H x W x C, RGB or gray, scaled down to `longest` pixels."""
    from PIL import Image

    pixels = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    scale = min(1.0, longest / max(pixels.shape[:2]))
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    image = Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return _uri(np.asarray(image), "JPEG", quality=80)


def _uri(pixels: np.ndarray, kind: str, **options: int | bool) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(source: str, alt: str, pixelated: bool = False, **attributes: object) -> Html:
    """An image element."""
    kind = "pixelated" if pixelated else None
    return tag("img", src=source, alt=alt, **{"class_": kind, **attributes})


def in_rgb(view: np.ndarray, channel_order: ChannelOrder) -> np.ndarray:
    """A network's view, uint8 S x S x C, for display: RGB or gray."""
    if view.shape[2] not in (1, 3):
        return view[:, :, :1]
    return view[:, :, ::-1] if channel_order == "BGR" else view


def tiled(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Pictures in rows, with transparent gaps: uint8 [N, H, W, 1 or 3] to RGBA."""
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    whole = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for place, tile in enumerate(tiles):
        top, left = (n * (s + gap) for n, s in zip(divmod(place, columns), (height, width)))  # noqa: B905
        part = whole[top : top + height, left : left + width]
        part[:, :, :3] = np.broadcast_to(tile, (height, width, 3)) if channels == 1 else tile
        part[:, :, 3] = 255
    return whole


def to_uint8(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Numbers on a scale from `low`, black, to `high`, white; an empty scale gives mid-gray."""
    span = np.asarray(high, np.float64) - low
    scaled = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0.5)
    return np.rint(255 * np.clip(np.nan_to_num(scaled, nan=0.5), 0, 1)).astype(np.uint8)
