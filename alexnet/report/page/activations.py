"""One photograph on its way through the convolutions: their maps in grids."""

import numpy as np

from alexnet.report.page.examples import small
from alexnet.report.page.filters import towers
from alexnet.report.page.html import Html, joined, sides, tag
from alexnet.report.page.network import Network, after_relu, convolutions
from alexnet.report.page.pictures import picture, png, tiled, to_uint8

MAPS, COLUMNS = 32, 8
_LONGEST = 56  # pixels of a map's side


def section(network: Network, view: np.ndarray, name: str) -> Html:
    """The photograph, a uint8 view of class `name`, and a grid of maps for every convolution."""
    spec = network.weights.spec
    outputs_of = {conv: after_relu(spec, conv) for conv in convolutions(spec)}
    outputs = network.layers(list(outputs_of.values()))(view[None])
    first = tag("figure", picture(small(network, view, 224), f"Photograph: {name}"),
                tag("figcaption", tag("bdi", name)))  # fmt: skip
    grids = [
        _grid(conv, outputs[output][0], towers(spec, conv)) for conv, output in outputs_of.items()
    ]
    words = (
        f"Every convolution's output after its ReLU for one picture: at most {MAPS} channels, "
        "spread evenly over the layer, each from black, zero, to white, its own highest value. A "
        "black map is a channel that nothing here excites."
    )
    return joined(tag("p", words), tag("div", first, grids, class_="activations"))


def _grid(conv: str, maps: np.ndarray, blocks: int) -> Html:
    channels = maps.shape[2]
    kept = spread_over(channels, MAPS)
    tiles = stretched(maps[:, :, kept])
    image = picture(
        png(tiled(tiles, COLUMNS)),
        f"{len(kept)} maps of {conv}, {maps.shape[0]} pixels a side",
        pixelated=True,
    )
    halves = "; upper half tower 1, lower half tower 2" if blocks == 2 else ""
    silent = int((maps.max(axis=(0, 1)) <= 0).sum())
    caption = tag(
        "figcaption",
        conv,
        tag("span", f"{sides(*maps.shape)}, {silent} silent{halves}",
            class_="note"),
    )  # fmt: skip
    return tag("figure", image, caption)


def spread_over(channels: int, most: int) -> np.ndarray:
    """At most `most` of the channels, evenly spaced, ascending; equally many of each tower."""
    count = min(channels, most)
    return np.arange(count) * channels // count


def stretched(maps: np.ndarray) -> np.ndarray:
    """Maps [H, W, N] as gray pictures, uint8 [N, h, w, 1], of at most _LONGEST pixels a side."""
    from PIL import Image

    tiles = to_uint8(maps, 0.0, np.maximum(maps.max(axis=(0, 1)), 1e-12)).transpose(2, 0, 1)
    if tiles.shape[1] > _LONGEST:
        size = (_LONGEST, _LONGEST)
        tiles = np.stack([np.asarray(Image.fromarray(tile).resize(size)) for tile in tiles])
    return tiles[:, :, :, None]
