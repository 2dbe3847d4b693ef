"""Statistics of a cache's training images: mean image, mean, standard deviation, color axes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.data.images import BadImage, decode
from alexnet.errors import UserError


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics over all pixels of all images, in units of 0..255; each color axis is a column."""

    mean_image: np.ndarray  # float64 [S, S, C]
    mean: np.ndarray  # float64 [C]
    std: np.ndarray  # float64 [C]
    color_std: np.ndarray  # float64 [C], along the axes, ascending
    color_axes: np.ndarray  # float64 [C, C]; the largest component of each axis is positive

    def to_json(self) -> dict[str, Any]:
        """Everything but the mean image, as plain values."""
        names = ("mean", "std", "color_std", "color_axes")
        return {name: getattr(self, name).tolist() for name in names}


def statistics(source: Any, progress: Any = None) -> Statistics:
    """Compute the statistics of an `AlikeSource`, leaving out its unreadable images.

    Args:
        source: a source whose images are all of one size.
        progress: called with the number of images done.

    Raises:
        UserError: if no image is readable.
    """
    total = np.zeros((source.side, source.side, source.channels), np.uint64)
    # Sums of products below 2^53, as for one image, are exact in float64, whatever their order.
    products = np.zeros((source.channels, source.channels))
    count = 0
    for index in range(len(source)):
        try:
            pixels = decode(source[index][0], source.channels)
        except BadImage:
            continue
        total += pixels
        flat = pixels.reshape(-1, source.channels).astype(np.float64)
        products += flat.T @ flat
        count += 1
        if progress is not None:
            progress(index + 1)
    if count == 0:
        raise UserError("not one training image is readable, so there are no statistics")
    number = count * source.side**2
    mean = total.sum((0, 1)) / number
    covariance = products / number - np.outer(mean, mean)
    values, axes = np.linalg.eigh(covariance)
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(len(axes))])
    return Statistics(
        total / count,
        mean,
        np.sqrt(np.maximum(np.diag(covariance), 0)),
        np.sqrt(np.maximum(values, 0)),
        axes,
    )
