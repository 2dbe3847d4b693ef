"""Random numbers as functions of (seed, epoch, index), no matter who computes them or when.

Only Philox's raw bits are used: NumPy guarantees that those never change between versions
(NEP 19), but guarantees it for none of its distributions.
"""

import numpy as np

_INDEX_BITS = 40  # examples below 2^40, epochs below 2^24
VIEW, ORDER, SPLIT, FAKE, INIT = range(5)  # streams that share no numbers
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # Philox4x64's constants
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


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
    """The next `count` float64 numbers in (0, 1), 32 bits each; `count` must be even."""
    words = generator.random_raw(count // 2).astype("<u8", copy=False).view("<u4")
    return (words + 0.5) * 2.0**-32


def uniforms(count: int, kind: int, seed: int, epoch: int = 0, index: int = 0) -> np.ndarray:
    """`count` float64 numbers in [0, 1), from the highest 53 bits of each draw."""
    return (bits(count, kind, seed, epoch, index) >> np.uint64(11)) * 2.0**-53


def uniforms_of_each(
    count: int, kind: int, seed: int, epoch: int, indices: np.ndarray
) -> np.ndarray:
    """The numbers of `uniforms` for several indices at once: float64 [len(indices), count].

    Philox4x64 with ten rounds (Salmon et al. 2011), as in NumPy: a NumPy generator object for each
    example would cost more than copying the example.
    """
    blocks = -(-count // 4)  # of four words, counted from 1
    words = [np.zeros((len(indices), blocks), np.uint64) for _ in range(4)]
    words[0] += np.arange(1, blocks + 1, dtype=np.uint64)
    words[3] += np.uint64(kind)
    keys = np.asarray(indices).astype(np.uint64)[:, None] | np.uint64(epoch << _INDEX_BITS)
    for round_ in range(10):
        key = np.uint64((seed + round_ * _WEYL[0]) % 2**64)
        high, low = zip(*map(_product, _MULTIPLIERS, (words[0], words[2])), strict=True)
        words = [high[1] ^ words[1] ^ key, low[1], high[0] ^ words[3] ^ keys, low[0]]
        keys = keys + np.uint64(_WEYL[1])
    drawn = np.stack(words, axis=-1).reshape(len(indices), -1)[:, :count]
    return (drawn >> np.uint64(11)) * 2.0**-53


def _product(one: int, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low 64 bits of products of unsigned 64-bit numbers."""
    half, ones = np.uint64(32), np.uint64(2**32 - 1)
    a, b = np.uint64(one >> 32), np.uint64(one & (2**32 - 1))
    c, d = other >> half, other & ones
    middle = a * d + (b * d >> half)
    high = a * c + (middle >> half) + ((middle & ones) + b * c >> half)
    return high, other * np.uint64(one)


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` examples in an epoch: a permutation of 0..n-1, int64."""
    return np.argsort(bits(n, ORDER, seed, epoch), kind="stable")


def stratified_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split each class: indices of 80 % for training and 20 % for evaluation, both ascending.

    A class of two or more examples has at least one in each part; a single one goes to training.
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
