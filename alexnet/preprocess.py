"""How an image becomes a network's input, as data: a weights file carries it along.

The numbers stand in units of 0..255, so `(pixel - mean) / std` is what the network sees.
"""

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406), as in torchvision
IMAGENET_STD = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, channel order, mean and standard deviation."""

    resize_rule: Literal["short", "warp"] = "short"  # scale the short side, or warp both
    resize_to: int = 256
    crop: int = 224
    channel_order: Literal["RGB", "BGR", "L"] = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN  # one number a channel, in the order above
    std: tuple[float, ...] = IMAGENET_STD
