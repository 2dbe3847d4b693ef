"""The first convolution's kernels as pictures."""

import numpy as np

from alexnet.layers import Conv, Spec, trace
from alexnet.report.page.html import Html, joined, sides, tag
from alexnet.report.page.pictures import in_rgb, picture, png, tiled, to_uint8
from alexnet.weights import Weights

COLUMNS = 16
MOST = 256  # kernels shown


def towers(spec: Spec, name: str) -> int:
    """Towers that a convolution's features belong to: its own groups, or the next one's."""
    convs = [layer for layer in spec if isinstance(layer, Conv)]
    place = next(place for place, layer in enumerate(convs) if layer.name == name)
    following = convs[place + 1].groups if place + 1 < len(convs) else 1
    return max(convs[place].groups, following)


def scaled(kernel: np.ndarray, each: bool) -> np.ndarray:
    """Kernels [H, W, C, N] as pictures, uint8 [N, H, W, C].

    Args:
        kernel: float32.
        each: stretch each kernel over all grays by itself; else zero is mid-gray and all share one
            scale, that of the largest weight.
    """
    pictures = kernel.transpose(3, 0, 1, 2).astype(np.float64)
    if each:
        low, high = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        return to_uint8(pictures, low, high)
    largest = float(np.abs(pictures).max())
    return to_uint8(pictures, -largest, largest)


def section(weights: Weights) -> Html:
    """Kernels on one scale and each on its own, in a block for each tower."""
    row = next(row for row in trace(weights.spec) if isinstance(row.layer, Conv))
    kernel = weights.arrays[f"{row.name}.kernel"]
    count, blocks = kernel.shape[3], towers(weights.spec, row.name)
    channel_order = "L" if kernel.shape[2] == 1 else "RGB"  # canonical kernels are in RGB order
    forms = []
    for each, title in ((False, "one scale for all: gray is zero"), (True, "each by itself")):
        shown = [in_rgb(tile, channel_order) for tile in scaled(kernel, each)[:MOST]]  # type: ignore[arg-type]
        parts = np.array_split(np.stack(shown), blocks)
        images = [
            picture(
                png(tiled(part, COLUMNS)),
                f"{len(part)} kernels of {row.name}, {_tower(i, blocks)}{title}",
                pixelated=True,
                width=min(512, COLUMNS * 32),
            )
            for i, part in enumerate(parts)
        ]
        labels = [f"tower {i + 1}" if blocks > 1 else None for i in range(blocks)]
        pairs = [
            tag("div", image, label and tag("span", label, class_="note"))
            for image, label in zip(images, labels, strict=True)
        ]
        forms.append(tag("figure", tag("figcaption", title[0].upper() + title[1:]), pairs))
    side = row.layer.kernel  # type: ignore[union-attr]
    about = f"{count} kernels of {sides(side, side, kernel.shape[2])} in {row.name}"
    if blocks > 1:
        about += f", {count // blocks} in each of {blocks} towers"
    if kernel.shape[2] not in (1, 3):
        about += f"; shown is what they take of the first of {kernel.shape[2]} channels"
    if count > MOST:
        about += f"; the first {MOST} are shown"
    return joined(tag("p", f"{about}."), tag("div", forms, class_="pair filters"))


def _tower(number: int, count: int) -> str:
    return f"tower {number + 1}, " if count > 1 else ""
