"""Noise made on demand: no disk, no decoding, and nothing to learn but by memorizing it."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from alexnet.data.dataset import Dataset
from alexnet.draws import FAKE, bits

CLASSES, TRAIN, EVAL = 1000, 1024, 256


@dataclass(frozen=True)
class SyntheticSource:
    """Random images with random labels, functions of (split, index)."""

    split: int  # 0 for train, 1 for eval
    count: int
    size: int  # height and width
    channels: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        shape = (self.size, self.size, self.channels)
        words = bits(1 + -(-int(np.prod(shape)) // 8), FAKE, self.split, index=index)
        pixels = words[1:].view(np.uint8)[: np.prod(shape)].reshape(shape)
        return pixels, int(words[0] % CLASSES)

    @property
    def side(self) -> int:
        """Height and width of all images."""
        return self.size

    def read(self, indices: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill `images` (uint8 [B, side, side, channels]); return labels and all-true flags."""
        labels = np.zeros(len(indices), np.int32)
        for row, index in enumerate(indices.tolist()):
            images[row], labels[row] = self[index]
        return labels, np.ones(len(indices), bool)

    def describe(self, index: int) -> str:
        """The example's number and split."""
        return f"synthetic example {index} of {('train', 'eval')[self.split]}"

    def digest(self) -> str:
        """Digest of the numbers that determine the images."""
        return sha256(repr((CLASSES, self)).encode()).hexdigest()


def open_synthetic(size: int, channels: int) -> Dataset:
    """1,024 images of `size` pixels a side to train on and 256 to evaluate on, 1,000 classes."""
    train, held_out = (
        SyntheticSource(split, count, size, channels) for split, count in enumerate((TRAIN, EVAL))
    )
    return Dataset("synthetic", train, held_out, tuple(f"class{i}" for i in range(CLASSES)))
