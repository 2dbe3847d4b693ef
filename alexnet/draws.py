"""Random numbers as functions of (seed, epoch, index), never of who computes them or when.

Only Philox's raw bits are used: NumPy promises that those never change between versions (NEP 19),
and promises that for none of its distributions.
"""

import numpy as np

_INDEX_BITS = 40  # examples below 2^40, epochs below 2^24
VIEW, ORDER, SPLIT, FAKE, INIT = range(5)  # streams that share no numbers


def stream(kind: int, seed: int, epoch: int = 0, index: int = 0) -> np.random.Philox:
    """The generator of one stream, at its start."""
    key = np.array([seed, epoch << _INDEX_BITS | index], dtype=np.uint64)
    # The counter counts in its lowest word; the highest keeps the streams apart.
    counter = np.array([0, 0, 0, kind], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)


def bits(count: int, kind: int, seed: int, epoch: int = 0, index: int = 0) -> np.ndarray:
    """`count` random uint64 numbers."""
    return stream(kind, seed, epoch, index).random_raw(count)


def uniforms_32(generator: np.random.Philox, count: int) -> np.ndarray:
    """The next `count` float64 numbers, an even number of them, of (0, 1): 32 bits each."""
    words = generator.random_raw(count // 2).astype("<u8", copy=False).view("<u4")
    return (words + 0.5) * 2.0**-32


def uniforms(count: int, kind: int, seed: int, epoch: int = 0, index: int = 0) -> np.ndarray:
    """`count` float64 numbers in [0, 1), from the highest 53 bits of each draw."""
    return (bits(count, kind, seed, epoch, index) >> np.uint64(11)) * 2.0**-53


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` examples in an epoch: a permutation of 0..n-1, int64."""
    return np.argsort(bits(n, ORDER, seed, epoch), kind="stable")


def stratified_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split each class: indices of 80 % for training and 20 % for evaluation, both ascending.

    A class of two or more examples has at least one in each part; a single one is trained on.
    """
    rank = np.argsort(bits(len(labels), SPLIT, seed), kind="stable")
    held_out = []
    for label in np.unique(labels):
        members = rank[labels[rank] == label]
        count = min(len(members) - 1, max(1, round(len(members) / 5)))
        held_out.append(members[:count])
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(held_out)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
