"""LRN's neighborhoods as a matrix, so that sums over neighbors are a matrix product."""

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
