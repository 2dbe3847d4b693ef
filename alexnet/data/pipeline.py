"""Batches of examples, decoded and augmented by threads or processes while the network trains.

A training batch is a function of (seed, step): any step can be computed without the ones before
it. So resuming needs only the step's number, and it makes no difference which worker computes it.
"""

import contextlib
import functools
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alexnet.data.augment import (
    Augmentation,
    eval_numbers,
    eval_view,
    ten_views,
    train_numbers,
    train_view,
)
from alexnet.data.buffers import Buffers
from alexnet.data.dataset import Dataset, Source, checked_label
from alexnet.data.images import BadImage, decode
from alexnet.data.shared import Parcel, Slots, pack
from alexnet.data.workers import in_processes
from alexnet.draws import order
from alexnet.errors import UserError
from alexnet.preprocess import ChannelOrder, EvalProtocol
from alexnet.text import counted

Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]  # close it when leaving before its end
LeftOut = tuple[int, str, str]  # an unreadable image's number, its name and the reason
Found = tuple[Batch, list[LeftOut]]


@dataclass(frozen=True, eq=False)
class Loading:
    """Loading options: the batch size, the rows to read, and how images are decoded."""

    batch_size: int  # of the global batch, over all processes
    channels: int = 3  # 3 for RGB, 1 for gray
    threads: int = 2
    on_bad_image: Literal["skip", "raise"] = "raise"
    rows: np.ndarray | None = None  # this process's rows of the global batch; by default all
    workers: int = 0  # processes that load, instead of threads
    whole: bool = False  # hand over whole images for the device to crop, if all have one size

    @property
    def own_rows(self) -> np.ndarray:
        """Indices of the rows of the global batch that this process reads."""
        return np.arange(self.batch_size) if self.rows is None else self.rows


_buffers = Buffers()
_epoch_order = functools.lru_cache(maxsize=4)(order)


class BadImages:
    """Unreadable images of one source, each listed once; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sentences: dict[int, str] = {}
        self._taken = 0

    def add(self, index: int, name: str, reason: str) -> None:
        """Record that example `index`, called `name`, is unreadable."""
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


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Number of full batches in the training set; the rest, different in each epoch, is dropped.

    Raises:
        UserError: if the training set is smaller than one batch.
    """
    steps = len(dataset.train) // batch_size
    if steps == 0:
        raise UserError(
            f"--batch-size is {batch_size}, but '{dataset.name}' has only "
            f"{counted(len(dataset.train), 'training example')}: give --batch-size "
            f"{len(dataset.train)} or less"
        )
    return steps


def train_batches(
    dataset: Dataset,
    augmentation: Augmentation,
    loading: Loading,
    *,
    seed: int,
    start_step: int = 0,
    bad_images: BadImages | None = None,
) -> Batches:
    """Yield the batches of step `start_step` and all following ones, without end.

    A batch has image (uint8 [B, S, S, C]), label (int32 [B]), mask (float32 [B], 0 where an image
    was left out), example (int32 [B], its number in `dataset.train`) and, with color noise,
    color_shift (float32 [B, 3], in units of 0..255) and perhaps color_scale (float32 [B]). B is
    the number of `loading.rows`, and only their images are read. With `loading.whole`, images of
    `augmentation.resize_to` pixels a side are handed over as they are, with crop (int32 [B, 2])
    and flip (uint8 [B]) to tell the step how to crop them; the network's input is the same.

    Raises:
        UserError: at once for a batch larger than the training set; while iterating for an
            invalid label, or for an unreadable image unless `loading` says to skip those.
    """
    steps_per_epoch(dataset, loading.batch_size)
    work = functools.partial(
        _train_batch, dataset.train, augmentation, loading, seed, dataset.num_classes
    )
    return _ahead(work, itertools.count(start_step), loading, bad_images)


def _train_batch(
    source: Source,
    augmentation: Augmentation,
    loading: Loading,
    seed: int,
    num_classes: int,
    step: int,
) -> Found:
    """The batch of a training step."""
    size, left_out = loading.batch_size, list[LeftOut]()
    epoch, place = divmod(step, len(source) // size)
    places, whole_order = place * size + loading.own_rows, _epoch_order(len(source), seed, epoch)
    indices = whole_order[places]
    leaders = whole_order[places - places % augmentation.crop_chunk]
    whole = augmentation.crop == "random" and _are_alike(source, loading, augmentation.resize_to)
    side = augmentation.resize_to if whole else augmentation.size
    batch = _empty_batch(indices, side, loading.channels)
    if augmentation.color_noise_shrink:
        batch["color_scale"] = np.full(len(indices), augmentation.scale(epoch), np.float32)
    load = functools.partial(_load, source, loading, num_classes, left_out)
    if whole:
        _fill(batch, source, load, num_classes)
        numbers = train_numbers(augmentation, seed, epoch, indices, leaders)
        if "color_shift" in numbers:
            numbers["color_shift"][batch["mask"] == 0] = 0
        return batch | numbers, left_out
    if augmentation.color_noise > 0:
        batch["color_shift"] = np.zeros((len(indices), 3), np.float32)
    for row, (index, leader) in enumerate(zip(indices.tolist(), leaders.tolist(), strict=True)):
        if (example := load(index)) is None:
            continue
        crop, shift = train_view(example[0], augmentation, seed, epoch, index, leader)
        _set_row(batch, row, crop, example[1])
        if "color_shift" in batch:
            batch["color_shift"][row] = shift
    _clear_rest(batch)
    return batch, left_out


def eval_batches(
    source: Source,
    protocol: EvalProtocol,
    loading: Loading,
    bad_images: BadImages | None = None,
    *,
    num_classes: int | None = None,
    channel_order: ChannelOrder = "RGB",
    ten_crop: bool = False,
) -> Batches:
    """Yield every example of `source` once, in order; the last batch is padded with mask 0.

    Batches are as in `train_batches`, without color_shift; `example` is -1 in padding. Over all
    rows, the sum of all masks plus `len(bad_images)` is `len(source)`. With `ten_crop`, `image` is
    uint8 [10, B, S, S, C], a batch for each of the ten views, and images are never whole. Without
    `num_classes`, labels are not checked.

    Raises:
        UserError: while iterating, as in `train_batches`.
    """
    work = functools.partial(
        _eval_batch, source, protocol, loading, num_classes, channel_order, ten_crop
    )
    steps = range(math.ceil(len(source) / loading.batch_size))
    return _ahead(work, steps, loading, bad_images)


def _eval_batch(
    source: Source,
    protocol: EvalProtocol,
    loading: Loading,
    num_classes: int | None,
    channel_order: ChannelOrder,
    ten_crop: bool,
    step: int,
) -> Found:
    """The batch of an evaluation step."""
    left_out = list[LeftOut]()
    indices = step * loading.batch_size + loading.own_rows
    indices = np.where(indices < len(source), indices, -1)
    plain = not ten_crop and channel_order != "BGR"
    whole = plain and _are_alike(source, loading, protocol.resize_to)
    side = protocol.resize_to if whole else protocol.crop
    batch = _empty_batch(indices, side, loading.channels, (10,) if ten_crop else ())
    load = functools.partial(_load, source, loading, num_classes, left_out)
    if whole:
        _fill(batch, source, load, num_classes)
        return batch | eval_numbers(protocol, len(indices)), left_out
    view = ten_views if ten_crop else eval_view
    for row, index in enumerate(indices.tolist()):
        if index >= 0 and (example := load(index)) is not None:
            _set_row(batch, row, view(example[0], protocol, channel_order), example[1])
    _clear_rest(batch)
    return batch, left_out


def _empty_batch(
    indices: np.ndarray, size: int, channels: int, views: tuple[int, ...] = ()
) -> Batch:
    """A batch without examples yet; call `_clear_rest` for the rows that don't get one."""
    return {
        "image": _buffers.take((*views, len(indices), size, size, channels)),
        "label": np.zeros(len(indices), np.int32),
        "mask": np.zeros(len(indices), np.float32),
        "example": indices.astype(np.int32),
    }


def _are_alike(source: Source, loading: Loading, side: int) -> bool:
    """Return True to hand images over whole: for an `AlikeSource` of squares of `side` pixels."""
    own = getattr(source, "side", None), getattr(source, "channels", None)
    return loading.whole and own == (side, loading.channels)


def _fill(batch: Batch, source: Any, load: Callable[[int], Any], num_classes: int | None) -> None:
    """Read whole images of an `AlikeSource` into a batch's rows; `load` reports unreadable ones."""
    indices = batch["example"][batch["example"] >= 0]  # padding comes last
    count = len(indices)
    labels, readable = source.read(indices, batch["image"][:count])
    known = (labels >= 0) & (labels < (np.inf if num_classes is None else num_classes))
    for row in np.flatnonzero(~(readable & known)):
        load(int(indices[row]))
    batch["label"][:count], batch["mask"][:count] = np.where(readable, labels, 0), readable
    _clear_rest(batch)


def _clear_rest(batch: Batch) -> None:
    """Set missing images to zero."""
    for row in np.flatnonzero(batch["mask"] == 0):
        batch["image"][..., row, :, :, :] = 0


def _set_row(batch: Batch, row: int, crop: np.ndarray, label: int) -> None:
    """Fill in a row: its crop, or its crops where the batch has several views."""
    place = batch["image"][..., row, :, :, :]
    if crop.strides[-2] < 0:  # mirrored: pixel by pixel numpy takes four times as long
        for channel in range(crop.shape[-1]):
            place[..., channel] = crop[..., channel]
    else:
        place[...] = crop
    batch["label"][row] = label
    batch["mask"][row] = 1


def _load(
    source: Source,
    loading: Loading,
    num_classes: int | None,
    left_out: list[LeftOut],
    index: int,
) -> tuple[np.ndarray, int] | None:
    """Decode an image and get its label; None for an unreadable image that is to be skipped."""
    try:
        image, label = source[index]
        if num_classes is not None:
            label = checked_label(source, index, label, num_classes)
        return decode(image, loading.channels), label
    except BadImage as error:
        if loading.on_bad_image == "raise":
            raise UserError(
                f"{source.describe(index)} can't be read: {error}; "
                "--on-bad-image skip leaves such images out"
            ) from error
        left_out.append((index, source.describe(index), str(error)))
        return None


def _ahead(
    work: Callable[[int], Found],
    steps: Iterable[int],
    loading: Loading,
    bad_images: BadImages | None,
) -> Batches:
    """Yield the batch of each step, in order, and record the images it left out."""
    if loading.workers:
        made = _in_processes(work, steps, loading.workers)
    else:
        made = _in_threads(work, iter(steps), loading.threads)
    with contextlib.closing(made):
        for batch, left_out in made:
            if bad_images is not None:
                for each in left_out:
                    bad_images.add(*each)
            yield batch


def _in_processes(
    work: Callable[[int], Found], steps: Iterable[int], workers: int
) -> Generator[Found, None, None]:
    """Yield `work` of each step, in order, computed ahead by processes."""
    slots = Slots()
    tasks = ((step, slots.take()) for step in steps)  # taken just before a step starts
    parcels = in_processes(functools.partial(_packed, work), tasks, workers)
    with contextlib.closing(parcels):
        for parcel, left_out in parcels:
            yield slots.open(parcel), left_out


def _packed(work: Callable[[int], Found], task: tuple[int, str]) -> tuple[Parcel, list[LeftOut]]:
    step, place = task
    batch, left_out = work(step)
    return pack(batch, place), left_out


def _in_threads(
    work: Callable[[int], Found], steps: Iterator[int], threads: int
) -> Generator[Found, None, None]:
    """Yield `work` of each step, in order, computed ahead by threads.

    Whole batches are the unit of work: decoding and resizing release the interpreter lock, and no
    parts have to be put together afterwards. An error is raised at its step's position. Closing
    the iterator drops the batches that no thread has begun, without waiting for the others.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    # One batch in progress per thread and two ready: more would only cost memory.
    ahead: deque[Future[Found]] = deque(
        pool.submit(work, step) for step in itertools.islice(steps, threads + 2)
    )
    try:
        while ahead:
            found = ahead.popleft().result()
            ahead.extend(pool.submit(work, step) for step in itertools.islice(steps, 1))
            yield found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
