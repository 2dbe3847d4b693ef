"""Views of a decoded image: resizing, cropping, mirroring and color noise.

All randomness is drawn from (seed, epoch, index) in one fixed order, whatever the options, so
switching one off leaves the others unchanged.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alexnet.draws import VIEW, uniforms, uniforms_of_each
from alexnet.preprocess import ChannelOrder, EvalProtocol, ResizeRule

# Color noise, for RGB in 0..255: its size along the principal axes of ImageNet's colors, and those
# axes as columns. The authors' code has standard deviations (akrizhevsky/cuda-convnet2,
# make-data/input_meta). fb.resnet.torch (datasets/imagenet.lua), which most others copied, has
# variances of colors in 0..1 instead: the same axes, but noise 2, 8 and 17 times weaker.
ColorAxes = Literal["original", "fb"]
COLORS: dict[ColorAxes, tuple[np.ndarray, np.ndarray]] = {
    "original": (
        np.array([19.7208330491, 37.093888533, 121.7800609929]),
        np.array(
            [
                [0.4179551317, -0.7125794529, -0.5635104535],
                [-0.8169806184, -0.0235416713, -0.5761843966],
                [0.3973111842, 0.7011963442, -0.5920029644],
            ]
        ),
    ),
    "fb": (
        255 * np.array([0.2175, 0.0188, 0.0045]),
        np.array(
            [
                [-0.5675, 0.7192, 0.4009],
                [-0.5808, -0.0045, -0.8140],
                [-0.5836, -0.6948, 0.4203],
            ]
        ),
    ),
}

AREA_SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop: fraction of the area, ...
AREA_RATIO = (3 / 4, 4 / 3)  # ... width over height ...
AREA_TRIES = 10  # ... and attempts before it takes the center

# A view's random numbers, by use: mirroring, vertical and horizontal position, color noise, area.
_FLIP, _TOP, _LEFT, _COLOR, _AREA = 0, 1, 2, slice(3, 7), slice(7, 7 + 2 * AREA_TRIES)
_DRAWS = _AREA.stop


@dataclass(frozen=True)
class Augmentation:
    """Training views: how they are cropped and mirrored, and their color noise."""

    size: int  # height and width of the view
    resize_to: int  # pixels to scale to before a random crop
    resize_rule: ResizeRule = "short"
    crop: Literal["random", "area"] = "random"  # random position, or random area and aspect ratio
    flip: bool = True  # mirror half of the views
    color_noise: float = 0.0  # strength of the paper's PCA noise; 0.1 there
    color_axes: ColorAxes = "original"
    color_noise_until: float = math.inf  # the first epoch without noise
    color_noise_shrink: bool = False  # divide views with noise by 1 + its strength
    crop_chunk: int = 1  # consecutive examples in the epoch's order that share position and flip

    def noise(self, epoch: int) -> float:
        """The strength of color noise in an epoch."""
        return self.color_noise if epoch < self.color_noise_until else 0.0

    def scale(self, epoch: int) -> float:
        """The factor applied to a view after mean subtraction (the authors' convdata.py)."""
        return 1 / (1 + self.noise(epoch)) if self.color_noise_shrink else 1.0


def train_view(
    image: np.ndarray,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    index: int,
    leader: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A training view: the crop, uint8 S x S x C, and its color shift, float32[3].

    `image` is uint8 H x W x C. The shift is in units of 0..255 and the same for all pixels of the
    crop; the device adds it before normalizing, without clipping. `leader` is the example whose
    crop position and mirroring this one shares, by default itself.
    """
    draws = uniforms(_DRAWS, VIEW, seed, epoch, index)
    colors = draws[None, _COLOR]
    if leader not in (None, index):
        draws = uniforms(_DRAWS, VIEW, seed, epoch, leader)
    if augmentation.crop == "area":
        crop = _area_crop(image, augmentation.size, draws)
    else:
        crop = _position_crop(image, augmentation, draws)
    if augmentation.flip and draws[_FLIP] < 0.5:
        crop = crop[:, ::-1]
    return crop, _color_shifts(colors, augmentation, epoch)[0]


def train_numbers(
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    indices: np.ndarray,
    leaders: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The parameters of `train_view`'s views, for images that the device crops.

    For square images of `augmentation.resize_to` pixels and random positions only. Returns `crop`
    (int32 [B, 2], the first row and column), `flip` (uint8 [B]) and, with color noise,
    `color_shift` (float32 [B, 3]).
    """
    count = _COLOR.stop if augmentation.color_noise > 0 else _COLOR.start
    draws = uniforms_of_each(count, VIEW, seed, epoch, indices)
    placed = draws
    if leaders is not None and augmentation.crop_chunk > 1:
        placed = uniforms_of_each(count, VIEW, seed, epoch, leaders)
    places = augmentation.resize_to - augmentation.size + 1
    found: dict[str, np.ndarray] = {
        "crop": (placed[:, [_TOP, _LEFT]] * places).astype(np.int32),
        "flip": ((placed[:, _FLIP] < 0.5) & augmentation.flip).astype(np.uint8),
    }
    if augmentation.color_noise > 0:
        found["color_shift"] = _color_shifts(draws[:, _COLOR], augmentation, epoch)
    return found


def eval_numbers(protocol: EvalProtocol, count: int) -> dict[str, np.ndarray]:
    """The parameters of `eval_view`'s views: `crop` and `flip`, as from `train_numbers`."""
    corner = round((protocol.resize_to - protocol.crop) / 2)
    return {
        "crop": np.full((count, 2), corner, np.int32),
        "flip": np.zeros(count, np.uint8),
    }


def eval_view(
    image: np.ndarray, protocol: EvalProtocol, channel_order: ChannelOrder = "RGB"
) -> np.ndarray:
    """The center crop of the resized image, uint8 S x S x C, equal to torchvision's.

    `image` is uint8 H x W x C, RGB or gray; the crop's channels are reversed for BGR.
    """
    return _central(_resized(image, protocol, channel_order), protocol.crop)


def ten_views(
    image: np.ndarray, protocol: EvalProtocol, channel_order: ChannelOrder = "RGB"
) -> np.ndarray:
    """The paper's ten views, uint8 10 x S x S x C: center and corners, then each mirrored.

    The corners are those of the resized image's central square (section 4.1, and the authors'
    `multiview_test`); torchvision's TenCrop takes those of the whole image.
    """
    size = protocol.crop
    square = _central(_resized(image, protocol, channel_order), protocol.resize_to)
    far = protocol.resize_to - size
    corners = [square[y : y + size, x : x + size] for y in (0, far) for x in (0, far)]
    views = np.stack([_central(square, size), *corners])
    return np.concatenate([views, views[:, :, ::-1]])


def _resized(image: np.ndarray, protocol: EvalProtocol, channel_order: ChannelOrder) -> np.ndarray:
    height, width = image.shape[:2]
    shape = _resized_shape(height, width, protocol.resize_rule, protocol.resize_to)
    resized = _resize(image, *shape)
    return resized[:, :, ::-1] if channel_order == "BGR" else resized


def _central(image: np.ndarray, size: int) -> np.ndarray:
    """The central square; offsets round half to even, as in torchvision's CenterCrop."""
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _resized_shape(height: int, width: int, rule: str, size: int) -> tuple[int, int]:
    """Height and width after resizing; the long side is rounded down, as in torchvision."""
    if rule == "warp":
        return size, size
    short = min(height, width)
    return int(size * height / short), int(size * width / short)


def _position_crop(image: np.ndarray, augmentation: Augmentation, draws: np.ndarray) -> np.ndarray:
    """A crop at a random position in the resized image's central square (paper, section 4.1)."""
    square, size = augmentation.resize_to, augmentation.size
    height, width = image.shape[:2]
    tall, wide = _resized_shape(height, width, augmentation.resize_rule, square)
    top = round((tall - square) / 2) + int(draws[_TOP] * (square - size + 1))
    left = round((wide - square) / 2) + int(draws[_LEFT] * (square - size + 1))
    # Computing only the pixels that are kept gives the same result as cropping the resized image,
    # to within one level of 255, in half the time.
    rows, columns = height / tall, width / wide
    box = (
        left * columns,
        top * rows,
        min((left + size) * columns, width),
        min((top + size) * rows, height),
    )
    return _resize(image, size, size, box)


def _area_crop(image: np.ndarray, size: int, draws: np.ndarray) -> np.ndarray:
    """A crop of random area and aspect ratio, resized to a square."""
    height, width = image.shape[:2]
    tall, wide = _area_shape(height, width, draws[_AREA].reshape(AREA_TRIES, 2))
    if (tall, wide) == (0, 0):
        ratio = min(max(width / height, AREA_RATIO[0]), AREA_RATIO[1])
        tall = min(height, max(1, round(width / ratio)))
        wide = min(width, max(1, round(height * ratio)))
        top, left = (height - tall) // 2, (width - wide) // 2
    else:
        top = int(draws[_TOP] * (height - tall + 1))
        left = int(draws[_LEFT] * (width - wide + 1))
    return _resize(image[top : top + tall, left : left + wide], size, size)


def _area_shape(height: int, width: int, tries: np.ndarray) -> tuple[int, int]:
    """Height and width of the first try that fits in the image, (0, 0) if none does."""
    low, high = (math.log(ratio) for ratio in AREA_RATIO)
    for scale, aspect in tries:
        area = height * width * (AREA_SCALE[0] + scale * (AREA_SCALE[1] - AREA_SCALE[0]))
        ratio = math.exp(low + aspect * (high - low))
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return tall, wide
    return 0, 0


def _resize(
    image: np.ndarray,
    height: int,
    width: int,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize bilinearly with antialiasing; `box` (left, top, right, bottom) is the part kept."""
    from PIL import Image

    gray = image.shape[2] == 1
    whole = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if gray else image))
    resized = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR, box))
    return resized[:, :, None] if gray else resized


def _color_shifts(draws: np.ndarray, augmentation: Augmentation, epoch: int) -> np.ndarray:
    """PCA color noise from four uniform numbers each: float32 [B, 3], RGB in units of 0..255."""
    strength = augmentation.noise(epoch)
    if strength == 0:
        return np.zeros((len(draws), 3), np.float32)
    # Box and Muller 1958: two uniform numbers give two normal ones; the fourth goes unused.
    radius = np.sqrt(-2 * np.log1p(-np.ascontiguousarray(draws[:, :2])))
    angle = 2 * np.pi * draws[:, 2:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    # Summed by hand: the result of a library's matrix product depends on the number of rows.
    sizes, axes = COLORS[augmentation.color_axes]
    scaled = normal[:, :3] * sizes
    shifts = np.sum([scaled[:, i, None] * axes[:, i] for i in range(3)], axis=0)
    return (shifts * strength).astype(np.float32)
