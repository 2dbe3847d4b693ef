"""Matrices for neighborhoods, so that sums and averages over them become matrix products."""

from collections.abc import Sequence

import numpy as np

from alexnet.layers import LRN


def band(layer: LRN, channels: int) -> np.ndarray:
    """(channels, channels) float32: 1 where the row's channel is a neighbor of the column's.

    x @ band sums over each channel's neighbors; x @ band.T, over the channels it is a neighbor of.
    The two differ if the window's size is even. Windows don't cross group boundaries.
    """
    own = np.arange(channels // layer.groups)
    distance = own[:, None] - own[None, :]
    near = (distance >= -(layer.size // 2)) & (distance <= (layer.size - 1) // 2)
    return np.kron(np.eye(layer.groups), near).astype(np.float32)


def averages(bins: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """(bins, size) float32: multiplied by `size` numbers, it gives the average over each bin.

    A bin is the index of its first number and the one after its last, as from `AvgPool.bins`.
    """
    matrix = np.zeros((len(bins), size), np.float32)
    for row, (start, end) in zip(matrix, bins, strict=True):
        row[start:end] = 1 / (end - start)
    return matrix
