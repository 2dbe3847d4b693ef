"""scikit-learn's bundled handwritten digits: 1,797 gray images of 8x8 pixels."""

import numpy as np

from alexnet.data.dataset import ArraySource, Dataset
from alexnet.draws import stratified_split


def open_digits() -> Dataset:
    """Open the digits, with 80 % of them for training.

    The split doesn't depend on a run's seed, so that runs can be compared.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    labels = loaded.target.astype(np.int32)
    train, held_out = stratified_split(labels, seed=0)
    return Dataset(
        "digits",
        ArraySource("digits, train", images[train], labels[train]),
        ArraySource("digits, eval", images[held_out], labels[held_out]),
        tuple(str(digit) for digit in range(10)),
    )
