"""Neighborhoods as matrices, so that sums and averages over them are matrix products."""

from collections.abc import Sequence

import numpy as np

from alexnet.layers import LRN


def band(layer: LRN, channels: int) -> np.ndarray:
    """(channels, channels) float32: 1 where the row's channel is a neighbor of the column's.

    x @ band sums each channel's neighbors, x @ band.T over those that a channel is a neighbor of:
    the two differ where the window's size is even. Groups don't see each other.
    """
    own = np.arange(channels // layer.groups)
    distance = own[:, None] - own[None, :]
    near = (distance >= -(layer.size // 2)) & (distance <= (layer.size - 1) // 2)
    return np.kron(np.eye(layer.groups), near).astype(np.float32)


def averages(bins: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """(bins, size) float32, which times `size` numbers is the average of each bin of them.

    A bin is its first number's place and the one after its last: `AvgPool.bins`.
    """
    matrix = np.zeros((len(bins), size), np.float32)
    for row, (start, end) in zip(matrix, bins, strict=True):
        row[start:end] = 1 / (end - start)
    return matrix
