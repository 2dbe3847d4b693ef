"""A `DataLoader` over Pillow as a torch user would write it: `alexnet bench --what input`.

It shares only the stored images with `alexnet.data`, which is measured against it.
"""

import io
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alexnet.data.augment import AREA_RATIO, AREA_SCALE, AREA_TRIES, Augmentation
from alexnet.data.dataset import Source


class Views(torch.utils.data.Dataset):
    """Training views (uint8 [S, S, 3]) of a source's images, drawn from Python's own generator."""

    def __init__(self, source: Source, augmentation: Augmentation):
        self.source, self.augmentation = source, augmentation

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        stored, label = self.source[index]
        crop = area_crop if self.augmentation.crop == "area" else position_crop
        view = crop(opened(stored).convert("RGB"), self.augmentation)
        if self.augmentation.flip and random.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(view)), label


def opened(stored: np.ndarray | bytes | Path) -> Image.Image:
    """A Pillow image, decoded only when its pixels are needed."""
    if isinstance(stored, np.ndarray):
        return Image.fromarray(stored.squeeze())
    return Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored)


def position_crop(image: Image.Image, augmentation: Augmentation) -> Image.Image:
    """A square at a random position, after scaling the short side: Resize and RandomCrop."""
    size, short = augmentation.size, min(image.size)
    if short != augmentation.resize_to:
        scaled = [int(side * augmentation.resize_to / short) for side in image.size]
        image = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
    left, top = (random.randrange(side - size + 1) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def area_crop(image: Image.Image, augmentation: Augmentation) -> Image.Image:
    """A part of random area and aspect ratio, scaled: RandomResizedCrop."""
    (width, height), size = image.size, augmentation.size
    box = (0, 0, width, height)
    for _ in range(AREA_TRIES):
        area = width * height * random.uniform(*AREA_SCALE)
        ratio = math.exp(random.uniform(*map(math.log, AREA_RATIO)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - tall)
            box = (left, top, left + wide, top + tall)
            break
    return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def input_step(
    source: Source, augmentation: Augmentation, batch_size: int, workers: int
) -> Callable[[int], None]:
    """A function that takes N batches, epoch after epoch, and loads them itself without workers.

    Workers are forked, as they are by default on Linux before Python 3.14.
    """
    options: dict[str, Any] = {}
    if workers:
        options = {"persistent_workers": True, "multiprocessing_context": "fork"}
    loader = DataLoader(
        Views(source, augmentation),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        **options,
    )
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    next(batches)

    def run(count: int) -> None:
        for _ in itertools.islice(batches, count):
            pass

    return run
