"""Cache creation: several processes make blocks of examples; an incomplete block is made again.

A block's images are on disk before its records are. So when a killed command is run again, every
record it finds belongs to a complete block; all other blocks are made again, and the cache ends up
bit for bit as if nothing had happened.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alexnet import lock, sealed
from alexnet.data.augment import eval_view
from alexnet.data.cache import (
    META,
    MISSING,
    PLAN,
    RECORD,
    SPLITS,
    UNREADABLE,
    WHOLE,
    Layout,
    checksum,
    description,
    images_file,
    index_digest,
    index_file,
    open_cache,
    open_split,
    read_index,
    read_meta,
    words_sum,
)
from alexnet.data.dataset import Dataset, Source, checked_label
from alexnet.data.folder import check_outside
from alexnet.data.images import BadImage, decode
from alexnet.data.sources import open_dataset
from alexnet.data.workers import in_processes
from alexnet.errors import RunError, UserError
from alexnet.files import sync
from alexnet.text import counted, printable

BLOCK = 256  # examples
_NAME = RECORD["name"].itemsize


@dataclass(frozen=True)
class Request:
    """A cache to be made."""

    source: str  # what --dataset takes
    folder: Path
    layout: Layout
    data_dir: str | None = None
    seed: int = 0
    on_bad_image: Literal["skip", "raise"] = "raise"

    def open_source(self) -> Dataset:
        """Open the data set to be cached."""
        return open_dataset(
            self.source,
            data_dir=self.data_dir,
            seed=self.seed,
            channels=self.layout.channels,
            size=self.layout.size,
        )


class Observer:
    """A progress observer; this one shows nothing."""

    def note(self, text: str) -> None:
        """Show a sentence."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how many of the examples are done."""


class Block(NamedTuple):
    """Finished examples of a split, starting at `first`; `images` only if not yet written."""

    split: str
    first: int
    records: np.ndarray  # RECORD
    images: bytes
    left_out: list[str]


def prepare(
    request: Request, workers: int, observer: Observer | None = None, check: bool = False
) -> Dataset:
    """Make a cache, or finish making it, and open it; with `check`, replace damaged images.

    Raises:
        UserError: if the source or the folder can't be used, or an image can't be read.
        RunError: if the disk is full, or a worker dies.
    """
    observer, folder = observer or Observer(), request.folder
    _source_of.cache_clear()
    check_outside(folder, dataset := _source_of(request))
    plan = description(request.layout, dataset)
    with _in_a_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(folder)
        try:
            _begin(folder, plan, request.layout)
            if (folder / META).is_file() and (not check or _is_whole(folder, observer)):
                observer.note(f"the cache in {folder} is complete")
            else:
                _fill(request, plan, workers, observer)
        finally:
            held.release()
    return open_cache(folder, f"cache:{folder}")


@contextlib.contextmanager
def _in_a_sentence(folder: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"can't write {folder}: {error.strerror}") from error
    except OSError as error:
        raise RunError(
            f"could not write {folder}: {error.strerror or error}; the same command goes on from "
            "there"
        ) from error


def _begin(folder: Path, plan: dict[str, Any], layout: Layout) -> None:
    """Check that the folder is new or has this very plan, which is written before other files."""
    if (folder / META).is_file():
        _check_same(folder, read_meta(folder), plan)
        (folder / PLAN).unlink(missing_ok=True)  # left if the command was killed just then
        return
    if (folder / PLAN).is_file():
        _check_same(folder, read_meta(folder, PLAN), plan)
    else:
        _check_new(folder, plan, layout)
        sealed.write(folder / PLAN, plan)
    for split, said in plan["splits"].items():
        index, images = index_file(folder, split), images_file(folder, split)
        index.touch()
        images.touch()
        os.truncate(index, said["examples"] * RECORD.itemsize)
        if layout.format == "raw":
            os.truncate(images, said["examples"] * layout.raw_bytes)
    sync(folder)


def _check_new(folder: Path, plan: dict[str, Any], layout: Layout) -> None:
    """Check that the folder is empty, and that its disk has enough space for raw images."""
    if any(inside.name != lock.LOCK and inside.name[0] != "." for inside in folder.iterdir()):
        raise UserError(f"{folder} has files in it but no cache: give another folder")
    examples = sum(said["examples"] for said in plan["splits"].values())
    need, free = examples * layout.raw_bytes, shutil.disk_usage(folder).free
    if layout.format == "raw" and need > free:
        raise RunError(
            f"the cache takes {need / 1e9:.1f} GB, but the disk of {folder} has {free / 1e9:.1f} "
            "GB free: --format jpeg takes about a tenth"
        )


def _check_same(folder: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    for key, what in (
        ("layout", "size, format, channels, resize rule or quality"),
        ("source", "data set"),
    ):
        if found[key] != plan[key]:
            raise UserError(
                f"{folder} holds a cache of another {what}: give another folder, or delete it"
            )


def _is_whole(folder: Path, observer: Observer) -> bool:
    """Verify all checksums of a finished cache; if any differ, mark it as unfinished again."""
    sources = {split: open_split(folder, split, f"cache:{folder}, {split}") for split in SPLITS}
    done, total, damaged = 0, sum(map(len, sources.values())), dict[str, list[int]]()
    for split, source in sources.items():
        damaged[split] = []
        for index in range(len(source)):
            try:
                source.check(index)
            except RunError as error:
                observer.note(str(error).partition(";")[0])
                damaged[split].append(index)
            done += 1
            observer.progress("checking", done, total)
    if not any(damaged.values()):
        return True
    plan = read_meta(folder)
    for said in plan["splits"].values():
        said.pop("index")
    sealed.write(folder / PLAN, plan)
    (folder / META).unlink()
    for split, examples in damaged.items():
        records = read_index(folder, split, plan["splits"][split]["examples"])
        for index in examples:
            records[index // BLOCK * BLOCK : (index // BLOCK + 1) * BLOCK] = 0
        with index_file(folder, split).open("r+b") as file:
            file.write(records.data)
    return False


def _fill(request: Request, plan: dict[str, Any], workers: int, observer: Observer) -> None:
    """Make the missing blocks, and finish the cache."""
    folder, layout = request.folder, request.layout
    total = sum(said["examples"] for said in plan["splits"].values())
    records = {
        split: read_index(folder, split, said["examples"]) for split, said in plan["splits"].items()
    }
    todo = {split: _missing(found, layout) for split, found in records.items()}
    done = total - sum(min(BLOCK, len(records[s]) - first) for s in SPLITS for first in todo[s])
    if done:
        observer.note(f"going on: {counted(done, 'example')} of {total:,} are there")
    tasks = [(split, first) for split in SPLITS for first in todo[split]]
    work = functools.partial(_make, request)
    alone = (work(task) for task in tasks)
    with contextlib.closing(in_processes(work, tasks, workers) if workers > 1 else alone) as blocks:
        for block in blocks:
            for sentence in block.left_out:
                observer.note(f"left out: {sentence}")
            _keep(folder, block, records[block.split])
            done += len(block.records)
            observer.progress("preparing", done, total)
    meta = plan | {
        "splits": {
            split: {"examples": len(found), "index": index_digest(found)}
            for split, found in records.items()
        }
    }
    sealed.write(folder / META, meta)
    (folder / PLAN).unlink(missing_ok=True)


def _missing(records: np.ndarray, layout: Layout) -> list[int]:
    """The index of the first example in each block still to be made.

    JPEGs follow each other in their file, so every block from the first missing one on is made.
    """
    firsts = range(0, len(records), BLOCK)
    found = [i for i in firsts if (records["state"][i : i + BLOCK] == MISSING).any()]
    return (
        list(range(found[0], len(records), BLOCK)) if found and layout.format == "jpeg" else found
    )


def _keep(folder: Path, block: Block, records: np.ndarray) -> None:
    """Put a block's images on disk, and then its records."""
    last = block.first + len(block.records)
    if block.images:
        place = int(records["length"][: block.first].sum(dtype=np.int64))
        with images_file(folder, block.split).open("r+b") as file:
            file.truncate(place)
            _write(file.fileno(), block.images, place)
    records[block.first : last] = block.records
    with index_file(folder, block.split).open("r+b") as file:
        _write(file.fileno(), block.records.tobytes(), block.first * RECORD.itemsize)


def _write(descriptor: int, data: Any, place: int) -> None:
    """Write all of the data at an offset in a file, and wait until it is on disk."""
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(descriptor, view, place)
        view, place = view[count:], place + count
    os.fsync(descriptor)


@functools.lru_cache(maxsize=1)
def _source_of(request: Request) -> Dataset:
    """The data set, opened once in each process."""
    return request.open_source()


def _make(request: Request, task: tuple[str, int]) -> Block:
    """Make a block: write raw images, but return JPEGs, as their offset is not known yet."""
    (split, first), layout = task, request.layout
    dataset = _source_of(request)
    source = dataset.train if split == SPLITS[0] else dataset.eval
    indices = range(first, min(first + BLOCK, len(source)))
    records, images, left_out = np.zeros(len(indices), RECORD), list[bytes](), list[str]()
    for record, index in zip(records, indices, strict=True):
        record["name"] = _name(source, index).encode()[-_NAME:]
        try:
            pixels, record["label"] = _example(source, index, layout, dataset.num_classes)
            record["state"], image = WHOLE, _encoded(pixels, layout)
        except BadImage as error:
            if request.on_bad_image == "raise":
                raise UserError(
                    f"{source.describe(index)} can't be read: {error}; --on-bad-image skip leaves "
                    "such images out"
                ) from error
            left_out.append(f"{source.describe(index)}: {error}")
            record["state"], record["label"] = UNREADABLE, 0
            image = b"" if layout.format == "jpeg" else bytes(layout.raw_bytes)
        stored = np.frombuffer(image, np.uint8)
        record["length"], record["crc"], record["sum"] = (
            len(image),
            checksum(stored),
            words_sum(stored),
        )
        images.append(image)
    data = b"".join(images)
    if layout.format == "raw":
        with _in_a_sentence(request.folder), images_file(request.folder, split).open("r+b") as file:
            _write(file.fileno(), data, first * layout.raw_bytes)
        data = b""
    return Block(split, first, records, data, left_out)


def _name(source: Source, index: int) -> str:
    """An example's name relative to the data set's folder, whose own location stays private."""
    return source.describe(index).removeprefix(f"{printable(getattr(source, 'root', ''))}/")


def _example(source: Source, index: int, layout: Layout, classes: int) -> tuple[np.ndarray, int]:
    image, label = source[index]
    label = checked_label(source, index, label, classes)
    return eval_view(decode(image, layout.channels), layout.protocol), label


def _encoded(pixels: np.ndarray, layout: Layout) -> bytes:
    if layout.format == "raw":
        return pixels.tobytes()
    import simplejpeg

    kind = "GRAY" if layout.channels == 1 else "RGB"
    sampling = "Gray" if layout.channels == 1 else "420"
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), layout.quality, kind, colorsubsampling=sampling
    )
