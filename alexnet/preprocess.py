"""Preprocessing as data: how an image becomes a network's input. It travels with the weights.

Pixel values are in units of 0..255, so `(pixel - mean) / std` is what the network sees.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from alexnet.errors import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406), as in torchvision
IMAGENET_STD = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)

ResizeRule = Literal["short", "warp"]  # scale the short side to a length, or warp both sides to it
ChannelOrder = Literal["RGB", "BGR", "L"]

_MAX_SIZE = 1 << 20  # pixels a side
_SMALLEST, _LARGEST = 1e-37, 1e37  # magnitudes whose reciprocals, too, are finite in fp32


@dataclass(frozen=True)
class Normalize:
    """Channel order, mean and standard deviation: what a network's weights were trained for."""

    mean: tuple[float, ...] = IMAGENET_MEAN  # one number a channel, in the order below
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: ChannelOrder = "RGB"


@dataclass(frozen=True)
class EvalProtocol:
    """Geometry of an evaluation: resize, then cut out the center."""

    resize_rule: ResizeRule = "short"
    resize_to: int = 256
    crop: int = 224


@dataclass(frozen=True)
class Preprocess:
    """The pair that a weights file carries; its protocol is a default that a user may replace."""

    normalize: Normalize = Normalize()
    protocol: EvalProtocol = EvalProtocol()


def describe(preprocess: Preprocess) -> str:
    """The preprocessing in words."""
    normalize = preprocess.normalize
    mean, std = (" ".join(f"{x:.6g}" for x in xs) for xs in (normalize.mean, normalize.std))
    geometry = describe_geometry(preprocess.protocol)
    return f"{geometry}, {normalize.channel_order}, mean {mean}, std {std}"


def describe_geometry(protocol: EvalProtocol, views: str = "the center") -> str:
    """Resizing and cropping in words."""
    sides = "the short side" if protocol.resize_rule == "short" else "both sides"
    return f"{sides} to {protocol.resize_to}, {views} of {protocol.crop}"


def to_json(preprocess: Preprocess) -> dict[str, Any]:
    """One flat object: resize_rule, resize_to, crop, channel_order, mean, std."""
    normalize = preprocess.normalize
    return {
        **asdict(preprocess.protocol),
        "channel_order": normalize.channel_order,
        "mean": list(normalize.mean),
        "std": list(normalize.std),
    }


def from_json(values: Any, channels: int) -> Preprocess:
    """The preprocessing that `to_json` wrote, checked: `values` may come from anywhere.

    Args:
        values: parsed JSON.
        channels: of the network's input; mean and std have one number for each.

    Raises:
        UserError: for fields that are missing, unknown, of the wrong type or out of range.
    """
    names = [field.name for kind in (EvalProtocol, Normalize) for field in fields(kind)]
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise UserError(
            f"the preprocessing's description must have exactly {', '.join(sorted(names))}"
        )
    wrong = [
        name
        for name, valid in {
            "resize_rule": values["resize_rule"] in get_args(ResizeRule),
            "resize_to": _is_size(values["resize_to"]),
            "crop": _is_size(values["crop"]),
            "channel_order": values["channel_order"] in get_args(ChannelOrder),
            "mean": _are_numbers(values["mean"], channels, -_LARGEST),
            "std": _are_numbers(values["std"], channels, _SMALLEST),
        }.items()
        if not valid
    ]
    if wrong:
        raise UserError(
            f"the preprocessing's description has an impossible {' and '.join(wrong)} "
            f"for an input of {channels} channels"
        )
    return Preprocess(
        Normalize(tuple(values["mean"]), tuple(values["std"]), values["channel_order"]),
        EvalProtocol(values["resize_rule"], values["resize_to"], values["crop"]),
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIZE


def _are_numbers(values: Any, count: int, least: float) -> bool:
    """Tell whether these are `count` finite numbers, none below `least`."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) in (int, float) and least <= value <= _LARGEST for value in values)
    )
