"""A network of ImageNet's 1000 classes without training, and pictures to show it."""

import dataclasses

import numpy as np
from PIL import Image

from tests.weights.helpers import narrow


def narrow_1000():
    """Random weights for ImageNet's classes, without names; loud enough to be sure of something."""
    whole = narrow("torchvision", image_size=67, num_classes=1000)
    arrays = whole.arrays | {"fc8.kernel": whole.arrays["fc8.kernel"] * np.float32(3)}
    return dataclasses.replace(whole, arrays=arrays, class_names=None)


def photographs(folder, count=6):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
