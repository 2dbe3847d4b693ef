"""Batches of examples, decoded and augmented by threads while the network trains.

A training batch is a function of (seed, step): any step can be computed without the ones before
it, so resuming needs no more state than the step's number, and threads change nothing.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterator

import numpy as np

from alexnet.config import TrainConfig
from alexnet.data.augment import eval_view, train_view
from alexnet.data.draws import order
from alexnet.data.images import BadImage, decode
from alexnet.data.sources import Dataset, Source
from alexnet.errors import UserError
from alexnet.imports import hidden

__all__ = ["BadImages", "Batch", "eval_batches", "order", "steps_per_epoch", "train_batches"]

Batch = dict[str, np.ndarray]

_FOREVER = 2**40  # steps; the training loop stops long before


class BadImages:
    """The images of one source that could not be read, each once; safe to share by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sentences: dict[int, str] = {}
        self._taken = 0

    def add(self, index: int, name: str, reason: str) -> None:
        """Note that example `index`, called `name`, is unreadable."""
        with self._lock:
            self._sentences.setdefault(index, f"{name}: {reason}")

    def __len__(self) -> int:
        return len(self._sentences)

    @property
    def sentences(self) -> list[str]:
        """Name and reason of each, in the order found."""
        with self._lock:
            return list(self._sentences.values())

    def take_new(self) -> list[str]:
        """The sentences that no earlier call returned."""
        with self._lock:
            new = list(self._sentences.values())[self._taken :]
            self._taken += len(new)
            return new


def steps_per_epoch(dataset: Dataset, config: TrainConfig) -> int:
    """Full batches in the training set; what is left over is dropped, and differs by epoch.

    Raises:
        UserError: where the training set is smaller than one batch.
    """
    steps = len(dataset.train) // config.data.batch_size
    if steps == 0:
        raise UserError(
            f"--batch-size is {config.data.batch_size}, but '{dataset.name}' has only "
            f"{len(dataset.train)} training examples: a batch can't be larger than that"
        )
    return steps


def train_batches(
    dataset: Dataset,
    config: TrainConfig,
    start_step: int = 0,
    bad_images: BadImages | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches for step `start_step` and all that follow, without end.

    A batch has image (uint8 [B, S, S, C]), label (int32 [B]), mask (float32 [B], 0 where an image
    was left out) and, with colour noise, color_shift (float32 [B, 3], in units of 0..255).
    With `rows`, it is these rows of the global batch, and only their images are read.

    Raises:
        UserError: at once for a batch larger than the training set; while iterating for an image
            that can't be read, unless the config says to skip those.
    """
    size, seed, source = config.data.batch_size, config.run.seed, dataset.train
    per_epoch = steps_per_epoch(dataset, config)
    rows = np.arange(size) if rows is None else rows
    bad_images = BadImages() if bad_images is None else bad_images
    epoch_order = functools.lru_cache(maxsize=2)(functools.partial(order, len(source), seed))

    def batch_at(step: int) -> Batch:
        epoch, place = divmod(step, per_epoch)
        batch = _empty_batch(config, len(rows))
        if config.data.color_noise > 0:
            batch["color_shift"] = np.zeros((len(rows), 3), np.float32)
        for row, index in enumerate(epoch_order(epoch)[place * size + rows].tolist()):
            example = _load(source, index, config, bad_images)
            if example is None:
                continue
            crop, shift = train_view(example[0], config, seed, epoch, index)
            _set_row(batch, row, crop, example[1])
            if "color_shift" in batch:
                batch["color_shift"][row] = shift
        return batch

    steps = range(start_step, start_step + _FOREVER)
    return _in_threads(batch_at, steps, config.data.loader_threads)


def eval_batches(
    source: Source,
    config: TrainConfig,
    bad_images: BadImages | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every example of `source` once, in order; the last batch is filled up with mask 0.

    Batches are those of `train_batches`, without color_shift. The sum of all masks and
    `len(bad_images)`, over all rows, make `len(source)`.

    Raises:
        UserError: while iterating, as `train_batches`.
    """
    size, preprocess = config.data.batch_size, config.preprocess
    rows = np.arange(size) if rows is None else rows
    bad_images = BadImages() if bad_images is None else bad_images

    def batch_at(step: int) -> Batch:
        batch = _empty_batch(config, len(rows))
        for row, index in enumerate((step * size + rows).tolist()):
            if index >= len(source):
                continue
            example = _load(source, index, config, bad_images)
            if example is not None:
                _set_row(batch, row, eval_view(example[0], preprocess), example[1])
        return batch

    steps = range(math.ceil(len(source) / size))
    return _in_threads(batch_at, steps, config.data.loader_threads)


def _empty_batch(config: TrainConfig, size: int) -> Batch:
    side = config.image_size
    return {
        "image": np.zeros((size, side, side, config.model.channels), np.uint8),
        "label": np.zeros(size, np.int32),
        "mask": np.zeros(size, np.float32),
    }


def _set_row(batch: Batch, row: int, crop: np.ndarray, label: int) -> None:
    batch["image"][row] = crop
    batch["label"][row] = label
    batch["mask"][row] = 1


def _load(
    source: Source, index: int, config: TrainConfig, bad_images: BadImages
) -> tuple[np.ndarray, int] | None:
    """Decoded image and label; None for an unreadable image that is to be skipped."""
    try:
        image, label = source[index]
        return decode(image, config.model.channels), label
    except BadImage as error:
        if config.data.on_bad_image == "raise":
            raise UserError(
                f"{source.describe(index)} can't be read: {error}; "
                "--on-bad-image skip leaves such images out"
            ) from error
        bad_images.add(index, source.describe(index), str(error))
        return None


def _in_threads(batch_at: Callable[[int], Batch], steps: range, threads: int) -> Iterator[Batch]:
    """`batch_at` of each step, in order, computed ahead by threads.

    Whole batches are the unit of work: decoding and resizing release the interpreter lock, and
    nothing has to be copied together afterwards.
    """
    with hidden("jax", "torch"):
        import grain

    # One batch in work per thread and two ready: more would only cost memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    data = grain.MapDataset.range(steps.start, steps.stop).map(batch_at)
    batches = iter(data.to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()  # batches not begun are dropped, so that leaving early doesn't wait
