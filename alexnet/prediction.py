"""Prediction of the classes of single images: files, folders, patterns, or images in memory."""

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from alexnet.data.dataset import Source
from alexnet.data.folder import images_below
from alexnet.data.inputs import decodable
from alexnet.data.pipeline import BadImages, Loading, eval_batches
from alexnet.engine import Batch
from alexnet.errors import RunError, UserError, check_count, choose
from alexnet.evaluation import FrameworkChoice, Pair, distance, open_engine, probabilities
from alexnet.files import as_path
from alexnet.names import ClassNames, class_names
from alexnet.protocols import views
from alexnet.text import printable
from alexnet.weights import Weights

MOST = 32
SMALL = 8  # batch size for fewer images: any usual number of devices can divide it


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image."""

    name: str  # the file's, or the image's number
    classes: tuple[int, ...]  # highest first
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images without labels, as a `Source`."""

    images: Sequence[Any]  # as `inputs.decodable` takes them

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return decodable(self.images[index]), 0

    def describe(self, index: int) -> str:
        """The file's path, with unprintable characters escaped, or the image's number."""
        image = self.images[index]
        return printable(str(image)) if isinstance(image, str | os.PathLike) else f"image {index}"


def batch_of(images: int, most: int = MOST) -> int:
    """The batch size for a number of images: a few images get a small batch."""
    return min(most, SMALL) if images <= SMALL else most


def find_images(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Find image files; return their names, and sentences about words that match nothing.

    A word is a file, a folder, which stands for all images below it, or a pattern with *, ? or [
    that the shell did not expand.
    """
    files: list[str] = []
    problems: list[str] = []
    for word in words:
        path = as_path(word)
        if path.is_dir():
            found, kind = images_below(path), "no image in it"
        elif path.exists() or not glob.has_magic(word):
            found, kind = [word], ""
        else:
            found, kind = sorted(glob.glob(word, recursive=True)), "no file by this pattern"
        files += found
        problems += [] if found else [f"{word}: {kind}"]
    return files, problems


def highest(name: str, log_probability: np.ndarray, names: ClassNames, top_k: int) -> Prediction:
    """The most probable classes of one image; of equal ones, the lower number first.

    `log_probability` is float64 (classes,).
    """
    best = np.argsort(-log_probability, kind="stable")[:top_k].tolist()
    return Prediction(
        name,
        tuple(best),
        tuple(names.names[label] for label in best),
        tuple(float(np.exp(log_probability[label])) for label in best),
    )


def predict_images(
    weights: Weights,
    images: Sequence[Any],
    framework: FrameworkChoice,
    top_k: int = 5,
    ten_crop: bool = False,
    batch_size: int = MOST,
) -> list[Prediction]:
    """The classes of each image; see `alexnet.predict`.

    Raises:
        UserError: if an image can't be read.
        RunError: if outputs are not finite, or the two frameworks disagree.
    """
    choose("framework", framework, get_args(FrameworkChoice))
    check_count("top_k", top_k)
    check_count("batch_size", batch_size)
    if not images:
        return []
    size = batch_of(len(images), batch_size)
    engine = open_engine(weights, framework, size)
    names, source = class_names(weights), ImageList(images)
    found = [
        highest(source.describe(int(batch["example"][row])), outputs[row], names, top_k)
        for batch, outputs in image_outputs(engine, weights, source, size, ten_crop)
        for row in np.flatnonzero(batch["mask"])
    ]
    if isinstance(engine, Pair) and not engine.agree:
        raise RunError(distance(engine.apart))
    return found


def image_outputs(
    engine: Any,
    weights: Weights,
    source: Source,
    batch_size: int,
    ten_crop: bool = False,
    bad_images: BadImages | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield batches of images with their log probabilities, float64 (B, classes).

    Unreadable images are left out and added to `bad_images`; if that is None, they are an error.
    """
    found = BadImages() if bad_images is None else bad_images
    view = views("ten-crop" if ten_crop else "center", weights.preprocess)
    loading = Loading(batch_size, weights.spec.channels, on_bad_image="skip", rows=engine.rows)
    order = weights.preprocess.normalize.channel_order
    batches = eval_batches(
        source, view.geometry, loading, found, channel_order=order, ten_crop=ten_crop
    )
    with contextlib.closing(batches):
        for each in probabilities(engine, batches, ten_crop):
            if bad_images is None and found:
                raise UserError(found.sentences[0])
            yield each
    if bad_images is None and found:  # the last ones
        raise UserError(found.sentences[0])
