"""Preprocessing as data: how an image becomes a network's input. It is stored with the weights.

Pixel values are in units of 0..255, so `(pixel - mean) / std` is what the network sees.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from alexnet.errors import UserError
from alexnet.options import LEAST, MOST

if TYPE_CHECKING:  # too slow to import for --help
    import numpy as np

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406), as in torchvision
IMAGENET_STD = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)

ResizeRule = Literal["short", "warp"]  # scale the short side to a length, or warp both sides to it
ChannelOrder = Literal["RGB", "BGR", "L"]

_MAX_SIZE = 1 << 20  # pixels a side


@dataclass(frozen=True)
class Normalize:
    """Channel order, mean and standard deviation that a network's weights were trained for."""

    mean: tuple[float, ...] = IMAGENET_MEAN  # one number per channel, in the order below
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: ChannelOrder = "RGB"
    # A mean image, subtracted instead of `mean`, which then has its channel means; else empty.
    # Little-endian fp32 of shape [S, S, C], S the input's side; bytes can be compared and hashed.
    image: bytes = field(default=b"", repr=False)

    @property
    def subtracted(self) -> "np.ndarray":
        """The numbers subtracted from a view: float32 [C], or [S, S, C] for a mean image."""
        import numpy as np

        if not self.image:
            return np.array(self.mean, np.float32)
        pixels = np.frombuffer(self.image, "<f4").reshape(-1, len(self.mean))
        side = round(len(pixels) ** 0.5)
        return pixels.reshape(side, side, -1)


@dataclass(frozen=True)
class EvalProtocol:
    """Geometry of an evaluation: resize, then crop the center."""

    resize_rule: ResizeRule = "short"
    resize_to: int = 256
    crop: int = 224


@dataclass(frozen=True)
class Preprocess:
    """The pair that a weights file carries; its protocol is a default that a user may replace."""

    normalize: Normalize = Normalize()
    protocol: EvalProtocol = EvalProtocol()


def with_mean_image(normalize: Normalize, image: "np.ndarray") -> Normalize:
    """Add a mean image, float32 [S, S, C], and set `mean` to its channel means."""
    means = tuple(float(mean) for mean in image.mean((0, 1), dtype="f8"))
    return replace(normalize, mean=means, image=image.astype("<f4").tobytes())


def describe(preprocess: Preprocess) -> str:
    """A description of the preprocessing."""
    normalize = preprocess.normalize
    mean, std = (" ".join(f"{x:.6g}" for x in xs) for xs in (normalize.mean, normalize.std))
    geometry = describe_geometry(preprocess.protocol)
    kind = "mean image of" if normalize.image else "mean"
    return f"{geometry}, {normalize.channel_order}, {kind} {mean}, std {std}"


def describe_geometry(protocol: EvalProtocol, views: str = "the center") -> str:
    """A description of resizing and cropping."""
    sides = "the short side" if protocol.resize_rule == "short" else "both sides"
    return f"{sides} to {protocol.resize_to}, {views} of {protocol.crop}"


def to_json(preprocess: Preprocess) -> dict[str, Any]:
    """One flat object: resize_rule, resize_to, crop, channel_order, mean, std.

    If there is a mean image, `image` has its bytes in Base64.
    """
    normalize = preprocess.normalize
    found = {
        **asdict(preprocess.protocol),
        "channel_order": normalize.channel_order,
        "mean": list(normalize.mean),
        "std": list(normalize.std),
    }
    if normalize.image:
        found["image"] = base64.b64encode(normalize.image).decode()
    return found


def from_json(values: Any, channels: int) -> Preprocess:
    """Read and check the output of `to_json`: `values` may come from anywhere.

    Args:
        values: parsed JSON.
        channels: of the network's input; mean and std have one number for each.

    Raises:
        UserError: for fields that are missing, unknown, of the wrong type or out of range.
    """
    names = {field.name for kind in (EvalProtocol, Normalize) for field in fields(kind)} - {"image"}
    if not isinstance(values, Mapping) or set(values) - {"image"} != names:
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
            "mean": _are_numbers(values["mean"], channels, -MOST),
            "std": _are_numbers(values["std"], channels, LEAST),
            "image": "image" not in values or isinstance(values["image"], str),
        }.items()
        if not valid
    ]
    if wrong:
        raise UserError(
            f"the preprocessing's description has an impossible {' and '.join(wrong)} "
            f"for an input of {channels} channels"
        )
    mean, std, order = tuple(values["mean"]), tuple(values["std"]), values["channel_order"]
    image = _decoded(values["image"], values["crop"], channels) if "image" in values else b""
    return Preprocess(
        Normalize(mean, std, order, image),
        EvalProtocol(values["resize_rule"], values["resize_to"], values["crop"]),
    )


def _decoded(text: str, side: int, channels: int) -> bytes:
    """A mean image's bytes: as many finite numbers as the input has."""
    import numpy as np

    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("the preprocessing's mean image is damaged") from error
    if len(data) != 4 * side * side * channels:
        raise UserError(
            f"the preprocessing's mean image has {len(data) // 4:,} numbers, and an input of "
            f"{side}x{side}x{channels} has {side * side * channels:,}"
        )
    if not (np.abs(np.frombuffer(data, "<f4")) <= MOST).all():
        raise UserError("the preprocessing's mean image has numbers that no image has")
    return data


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIZE


def _are_numbers(values: Any, count: int, least: float) -> bool:
    """Return True if these are `count` finite numbers, none below `least`."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) in (int, float) and least <= value <= MOST for value in values)
    )
