"""The parts of pictures that excite a layer's channels most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet.errors import choose
from alexnet.layers import AvgPool, Conv, MaxPool, SpatialLRN, Spec, trace
from alexnet.report.page.features import Features
from alexnet.report.page.html import Html, joined, sides, tag
from alexnet.report.page.network import Network, after_relu, convolutions
from alexnet.report.page.pictures import in_rgb, jpeg, picture
from alexnet.report.page.subject import Subject

CHANNELS, STRONGEST = 8, 9
_SIDE, _GAP = 72, 2  # pixels of a patch as shown, and between two


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer's units, in pixels of the input."""

    size: int  # of a side
    stride: int  # from one unit's field to the next one's
    start: int  # where the first unit's begins; negative in the padding


def receptive_field(spec: Spec, name: str) -> Field:
    """The part of the input that one unit of a layer sees.

    Raises:
        ValueError: for a layer that comes after one which sees the whole input.
    """
    size, stride, start = 1, 1, 0
    for row in trace(spec):
        match row.layer:
            case Conv(kernel=kernel, stride=step, padding=padding):
                window = (kernel, step, padding)
            case MaxPool(window=kernel, stride=step) | AvgPool(window=kernel, stride=step):
                window = (kernel, step, 0)
            case SpatialLRN(size=kernel):
                window = (kernel, 1, kernel // 2)
            case _ if len(row.out_shape) == 3 and row.in_shape == row.out_shape:
                window = (1, 1, 0)  # pointwise, or across channels
            case _:
                raise ValueError(f"{name} has no receptive field of its own")
        size += (window[0] - 1) * stride
        start -= window[2] * stride
        stride *= window[1]
        if row.name == name:
            return Field(size, stride, start)
    raise ValueError(f"no layer is called {name}")


def check(spec: Spec, layer: str) -> None:
    """Refuse a layer that is no convolution of the network.

    Raises:
        UserError: naming the nearest one that is.
    """
    choose("convolution", layer, convolutions(spec))


def section(subject: Subject, network: Network, found: Features, layer: str) -> Html:
    """A mosaic for each of the most selective channels of a convolution, after its ReLU."""
    assert subject.dataset is not None
    highest, spec = found.highest, network.weights.spec
    channels = selective(highest)
    if not len(channels):
        return tag("p", f"No channel of {layer} answers to any of the pictures.", class_="missing")
    output = after_relu(spec, layer)
    field = receptive_field(spec, output)
    columns = next(row.out_shape[1] for row in trace(spec) if row.name == layer)
    best = np.argsort(-highest[:, channels], axis=0, kind="stable")[:STRONGEST]
    views, numbers = network.views(subject.dataset.train, found.example[best.ravel()])
    by_number = dict(zip(numbers.tolist(), views, strict=True))
    figures = []
    for column, channel in enumerate(channels.tolist()):
        mine = best[:, column]
        places = [divmod(int(found.spot[example, channel]), columns) for example in mine.tolist()]
        pieces = [
            cut(by_number[int(found.example[example])], field, *place, network)
            for example, place in zip(mine.tolist(), places, strict=True)
        ]
        strong, weak = (float(highest[mine[i], channel]) for i in (0, -1))
        words = f"{len(pieces)} patches, activations {strong:.3g} to {weak:.3g}"
        image = picture(jpeg(mosaic(pieces), 3 * (_SIDE + _GAP)), f"Channel {channel}: {words}")
        caption = tag("figcaption", f"channel {channel}",
                      tag("span", f"{strong:.3g} to {weak:.3g}", class_="note"))  # fmt: skip
        figures.append(tag("figure", image, caption))
    words = (
        f"The {STRONGEST} parts of {len(found.example):,} training pictures that excite a channel "
        f"of {layer} most, one of each, for the {len(figures)} channels that single pictures "
        f"out most. A unit sees {sides(field.size, field.size)} pixels of the picture's "
        f"{sides(spec.image_size, spec.image_size)}; what lies beyond its edge is left out."
    )
    return joined(tag("p", words), tag("div", figures, class_="patches"))


def selective(highest: np.ndarray) -> np.ndarray:
    """Channels, ascending, whose strongest examples stand out most from the average one.

    `highest` is float [N, C]; channels that answer to nothing are left out.
    """
    top = np.sort(highest, axis=0)[-STRONGEST:].mean(axis=0)
    spread = highest.std(axis=0)
    score = np.where(spread > 0, (top - highest.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
    score[top <= 0] = 0
    best = np.argsort(-score, kind="stable")[:CHANNELS]
    return np.sort(best[score[best] > 0])


def cut(view: np.ndarray, field: Field, row: int, column: int, network: Network) -> np.ndarray:
    """The part of a view that a unit sees, uint8, made square with mid-gray at the edges."""
    top, left = field.start + row * field.stride, field.start + column * field.stride
    part = view[max(0, top) : top + field.size, max(0, left) : left + field.size]
    side = max(part.shape[:2])
    piece = np.full((side, side, view.shape[2]), 128, np.uint8)
    y, x = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    piece[y : y + part.shape[0], x : x + part.shape[1]] = part
    return in_rgb(piece, network.weights.preprocess.normalize.channel_order)


def mosaic(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Up to nine pictures in three columns, uint8 RGB or gray, with gaps in mid-gray."""
    from PIL import Image

    step = _SIDE + _GAP
    channels = pieces[0].shape[2]
    rows = -(-len(pieces) // 3)
    whole = np.full((rows * step - _GAP, 3 * step - _GAP, channels), 128, np.uint8)
    for place, piece in enumerate(pieces):
        flat = np.ascontiguousarray(piece[:, :, 0] if channels == 1 else piece)
        resized = np.asarray(Image.fromarray(flat).resize((_SIDE, _SIDE)))
        top, left = (n * step for n in divmod(place, 3))
        whole[top : top + _SIDE, left : left + _SIDE] = resized.reshape(_SIDE, _SIDE, channels)
    return whole
