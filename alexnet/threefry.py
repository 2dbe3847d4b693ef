"""Threefry-2x32, the counter-based generator that dropout masks come from in both frameworks.

JAX has its own. This is the same function in wrapping 32-bit integer arithmetic, written with
operators that NumPy and torch share, so that torch can draw the same bits as JAX.
Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3 and table 2.
"""

from typing import Any

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

Key = tuple[int, int]  # two unsigned 32-bit words


def threefry2x32(key: Key, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Encrypt the counters (x0, x1) under `key`: 20 rounds.

    Args:
        key: two unsigned 32-bit words.
        x0, x1: arrays of int32 (NumPy or torch) of one shape: the counter's high and low words.

    Returns:
        Two int32 arrays of that shape; their bits are the 64 random ones.
    """
    schedule = [_signed(word) for word in (*key, key[0] ^ key[1] ^ _PARITY)]
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for block in range(5):
        for distance in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, distance) ^ x0
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + schedule[(block + 2) % 3] + (block + 1)
    return x0, x1


def _rotate_left(x: Any, distance: int) -> Any:
    # >> copies the sign bit, so the bits shifted in are masked off.
    return (x << distance) | ((x >> (32 - distance)) & ((1 << distance) - 1))


def _signed(word: int) -> int:
    """The int32 with the bits of an unsigned 32-bit word, as a plain number."""
    return word - (1 << 32) if word >= 1 << 31 else word


def seed_key(seed: int) -> Key:
    """The content of `jax.random.key(seed)`: the high and low words of a 64-bit seed."""
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def fold_in(key: Key, data: int) -> Key:
    """The result of `jax.random.fold_in`: the key encrypting the counter (0, data)."""
    zero, low = (np.array([_signed(n)], np.int32) for n in (0, data & 0xFFFFFFFF))
    x0, x1 = threefry2x32(key, zero, low)
    return int(x0.view(np.uint32)[0]), int(x1.view(np.uint32)[0])


def dropout_keys(seed: int, step: int, layers: int) -> np.ndarray:
    """The keys of every dropout layer's mask at one step: (layers, 2) uint32.

    They are functions of the seed, the step and the layer's index among the dropout layers, so a
    run carries no generator state.
    """
    at_step = fold_in(seed_key(seed), step)
    return np.array([fold_in(at_step, i) for i in range(layers)], np.uint32).reshape(layers, 2)
