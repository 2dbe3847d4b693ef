"""A prepared copy of a data set: square images of one size, one file per split, raw or JPEG.

A cache is a folder with `meta.json`, which describes its contents and carries its own digest, and
two files for each of the splits `train` and `eval`: SPLIT.images, one image after another, and
SPLIT.index, a RECORD for each image. `meta.json` has the index's digest, which is verified when
the cache is opened. The index has two checksums for each image: its CRC-32C, verified whenever a
JPEG is read, and the sum of its words, verified when a raw image is first read in a process. Any
flipped bit changes both; for raw images, computing a CRC would cost more than reading.
"""

import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from alexnet import sealed
from alexnet.data.dataset import Dataset, fingerprint
from alexnet.data.images import MAX_BYTES, BadImage
from alexnet.errors import RunError, UserError
from alexnet.files import open_file
from alexnet.preprocess import EvalProtocol, ResizeRule
from alexnet.text import is_text, printable, storable

META, PLAN = "meta.json", "plan.json"  # of a finished cache, and of one being made
SPLITS = ("train", "eval")
KIND, VERSION = "alexnet cache", 1
# state is MISSING until an image is written; name has the last characters of the example's own.
RECORD = np.dtype(
    [
        ("sum", "<u8"),
        ("length", "<u4"),
        ("crc", "<u4"),
        ("label", "<i4"),
        ("state", "<u4"),
        ("name", "S80"),
    ]
)
MISSING, WHOLE, UNREADABLE = range(3)
_NO_RECORDS = np.zeros(0, RECORD)
Format = Literal["raw", "jpeg"]
_LARGEST = 1 << 13  # pixels a side
_LONGEST_NAME = 4096  # characters of a class's name
_FIELDS = {"kind", "version", "layout", "source", "class_names", "splits"}


@dataclass(frozen=True)
class Layout:
    """Format of a cache's images."""

    format: Format = "raw"
    size: int = 256  # pixels a side
    channels: int = 3
    resize_rule: ResizeRule = "short"  # before the central square is cut out
    quality: int = 90  # JPEG quality

    @property
    def raw_bytes(self) -> int:
        """Bytes of an image's pixels."""
        return self.size * self.size * self.channels

    @property
    def protocol(self) -> EvalProtocol:
        """Geometry of the images."""
        return EvalProtocol(self.resize_rule, self.size, self.size)


@dataclass(frozen=True, eq=False)
class CacheSource:
    """One split of a cache; safe to share between threads."""

    name: str  # for messages
    folder: Path
    split: str
    layout: Layout
    file: int  # descriptor of the images file, closed with the source
    records: np.ndarray  # RECORD [N]
    offsets: np.ndarray  # int64 [N], of the images within their file
    index_digest: str
    pixels: np.ndarray | None  # uint8 [N, S, S, C], a raw file mapped into memory
    seen: np.ndarray = field(init=False)  # bool [N]: raw images whose sums were verified

    def __post_init__(self) -> None:
        """Arrange for the file to be closed with the source, and mark all images as unread."""
        weakref.finalize(self, os.close, self.file)
        object.__setattr__(self, "seen", np.zeros(len(self.records), bool))

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen the source when it is unpickled."""
        return open_split, (self.folder, self.split, self.name)

    @property
    def side(self) -> int:
        """Height and width of all images."""
        return self.layout.size

    @property
    def channels(self) -> int:
        """Channels of all images."""
        return self.layout.channels

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        if self.records["state"][index] != WHOLE:
            raise BadImage("it was unreadable when the cache was made")
        label = self.records["label"][index].item()
        if self.pixels is None:
            return self._encoded(index), label
        image = np.empty((1, self.side, self.side, self.channels), np.uint8)
        self.read(np.array([index]), image)
        return image[0], label

    def read(self, indices: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill `images` (uint8 [B, S, S, C]); return labels and which images were readable.

        Raises:
            RunError: if one is damaged, or can't be read now.
        """
        readable = self.records["state"][indices] == WHOLE
        if self.pixels is None:
            for row in np.flatnonzero(readable):
                self._decode(int(indices[row]), images[row])
        else:
            self._copy(self.pixels, indices, images)
        return self.records["label"][indices], readable

    def _copy(self, pixels: np.ndarray, indices: np.ndarray, images: np.ndarray) -> None:
        # Touching mapped memory past the end of a truncated file would raise a fatal signal.
        if os.fstat(self.file).st_size < pixels.nbytes:
            raise self._damaged(int(indices[0]), "the file of images has become shorter")
        for index in indices.tolist():  # a disk is faster with one large read than page by page
            place, size = int(self.offsets[index]), self.layout.raw_bytes
            os.posix_fadvise(self.file, place, size, os.POSIX_FADV_WILLNEED)
        np.take(pixels, indices, axis=0, out=images, mode="clip")  # "clip" needs no buffer
        for row in np.flatnonzero(~self.seen[indices]):
            index = int(indices[row])
            if words_sum(images[row]) != self.records["sum"][index]:
                raise self._damaged(index, "its checksum is another")
            self.seen[index] = True

    def describe(self, index: int) -> str:
        """The example's own name, and its number and split here."""
        name = self.records[index]["name"].decode(errors="replace")
        return f"{printable(name)}, example {index} of {self.name}"

    def digest(self) -> str:
        """Digest of images, labels and names."""
        return sha256(repr((self.layout, self.index_digest)).encode()).hexdigest()

    def check(self, index: int) -> None:
        """Compare an image's CRC-32C, raw or not.

        Raises:
            RunError: if it differs, or the image can't be read.
        """
        self._encoded(index)

    def _encoded(self, index: int) -> bytes:
        """An image's bytes as stored in the file."""
        record = self.records[index]
        data = np.empty(record["length"], np.uint8)
        try:
            count = os.preadv(self.file, [data.data], int(self.offsets[index]))
        except OSError as error:
            raise RunError(f"{self.describe(index)} can't be read: {error.strerror}") from error
        if count != len(data):
            raise self._damaged(index, "the file of images has become shorter")
        if checksum(data) != record["crc"]:
            raise self._damaged(index, "its checksum is another")
        return data.tobytes()

    def _decode(self, index: int, image: np.ndarray) -> None:
        """Decode a JPEG straight into `image`."""
        import simplejpeg

        data = self._encoded(index)
        try:
            if simplejpeg.decode_jpeg_header(data)[:2] != image.shape[:2]:
                raise self._damaged(index, "its size is another")
            simplejpeg.decode_jpeg(data, "GRAY" if self.channels == 1 else "RGB", buffer=image)
        except ValueError as error:
            raise self._damaged(index, printable(str(error))) from error

    def _damaged(self, index: int, reason: str) -> RunError:
        return RunError(
            f"{self.describe(index)} is damaged: {reason}; `alexnet prepare SOURCE TARGET "
            "--check`, as the cache was made, replaces what is damaged"
        )


def checksum(data: np.ndarray | bytes) -> int:
    """CRC-32C of a contiguous array's bytes."""
    import google_crc32c

    return google_crc32c.value(data)


def words_sum(data: np.ndarray) -> int:
    """The sum, modulo 2^64, of a contiguous array's 64-bit words and any bytes left over."""
    flat = data.reshape(-1)
    whole = len(flat) // 8 * 8
    words, rest = flat[:whole].view("<u8"), flat[whole:]
    return (int(np.add.reduce(words)) + int(np.add.reduce(rest, dtype=np.uint64))) % 2**64


def open_cache(folder: Path, name: str) -> Dataset:
    """Open a cache.

    Args:
        folder: a folder made by `alexnet prepare`.
        name: the data set's name, for messages.

    Raises:
        UserError: if there is no cache, or it is unfinished, damaged or malformed.
    """
    train, held_out = (open_split(folder, split, f"{name}, {split}") for split in SPLITS)
    names = tuple(read_meta(folder)["class_names"])
    for source in (train, held_out):
        labels = source.records["label"][source.records["state"] == WHOLE]
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise UserError(f"{source.name} has labels of classes that {META} does not name")
    return Dataset(name, train, held_out, names)


def read_meta(folder: Path, file: str = META) -> dict[str, Any]:
    """Read a cache's `meta.json` or `plan.json`, and check it: a cache may come from anyone.

    Raises:
        UserError: if there is no such file, or it is not as it was written.
    """
    if not (folder / file).is_file():
        raise _no_cache(folder)
    try:
        meta = sealed.read(folder / file)
    except OSError as error:
        raise UserError(f"can't read {folder / file}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"{folder / file} is damaged: {error}; delete {folder}, prepare it anew"
        ) from error
    if meta.get("kind") == KIND and meta.get("version") != VERSION:
        raise UserError(
            f"{folder} is a cache of version {meta.get('version')!r:.20}, and this program reads "
            f"version {VERSION}: prepare it again"
        )
    if set(meta) != _FIELDS or meta["kind"] != KIND or not _is_valid(meta):
        raise UserError(f"{folder / file} is malformed: prepare the cache again")
    return meta


def _no_cache(folder: Path) -> UserError:
    if (folder / PLAN).is_file():
        return UserError(
            f"the cache in {folder} is not finished: call `alexnet prepare` as before, which "
            "goes on where it stopped"
        )
    if not folder.is_dir():
        return UserError(f"there is no folder {folder}: `alexnet prepare SOURCE {folder}` makes it")
    return UserError(f"{folder} holds no cache: `alexnet prepare` makes one")


def _is_valid(meta: Mapping[str, Any]) -> bool:
    names, splits = meta["class_names"], meta["splits"]
    return (
        isinstance(meta["source"], dict)
        and _is_layout(meta["layout"])
        and isinstance(names, list)
        and len(names) > 0
        and all(is_text(name, _LONGEST_NAME) for name in names)
        and isinstance(splits, dict)
        and set(splits) == set(SPLITS)
        and all(isinstance(split, dict) for split in splits.values())
        and all(_is_count(split.get("examples")) for split in splits.values())
    )


def _is_layout(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != {one.name for one in fields(Layout)}:
        return False
    return (
        values["format"] in get_args(Format)
        and values["resize_rule"] in get_args(ResizeRule)
        and all(_is_count(values[name]) for name in ("size", "channels", "quality"))
        and 1 <= values["size"] <= _LARGEST
        and values["channels"] in (1, 3)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def open_split(folder: Path, split: str, name: str) -> CacheSource:
    """Open one split of a cache, called `name` in messages.

    Raises:
        UserError: if the images file isn't the size that the index says, or the index doesn't
            match its digest in `meta.json`.
    """
    meta = read_meta(folder)
    said, layout = meta["splits"][split], Layout(**meta["layout"])
    records = read_index(folder, split, said["examples"])
    found = index_digest(records)
    if found != said.get("index"):
        raise UserError(f"{index_file(folder, split)} is damaged: delete {folder}, prepare it anew")
    path, lengths = images_file(folder, split), records["length"].astype(np.int64)
    with open_file(path, 2**62) as file:  # refuses anything but a regular file
        size = os.fstat(file.fileno()).st_size
        descriptor = os.dup(file.fileno())
    raw = layout.format == "raw"
    whole = (lengths == layout.raw_bytes if raw else lengths <= MAX_BYTES).all()
    if size != int(lengths.sum()) or not whole:
        os.close(descriptor)
        raise UserError(
            f"{path} has {size:,} bytes, not those that its index says: delete {folder}, prepare "
            "it anew"
        )
    pixels, offsets = None, np.cumsum(lengths) - lengths
    if raw and size:
        shape = (len(records), layout.size, layout.size, layout.channels)
        pixels = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
    return CacheSource(name, folder, split, layout, descriptor, records, offsets, found, pixels)


def images_file(folder: Path, split: str) -> Path:
    """The path of a split's images file."""
    return folder / f"{split}.images"


def index_file(folder: Path, split: str) -> Path:
    """The path of a split's index file."""
    return folder / f"{split}.index"


def read_index(folder: Path, split: str, examples: int) -> np.ndarray:
    """A split's index: RECORD [examples], mapped into memory; changes don't reach the file.

    Raises:
        UserError: if it can't be read, or has a different length.
    """
    path, size = index_file(folder, split), examples * RECORD.itemsize
    with open_file(path, size) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size:
        raise UserError(
            f"{path} has {found:,} bytes, but {examples:,} examples have {size:,}: delete "
            f"{folder}, prepare it anew"
        )
    return np.asarray(np.memmap(path, RECORD, "c", shape=(examples,))) if size else _NO_RECORDS


def index_digest(records: np.ndarray) -> str:
    """SHA-256 of an index."""
    return sha256(records.view(np.uint8).data).hexdigest()


def description(layout: Layout, dataset: Dataset) -> dict[str, Any]:
    """The content of `plan.json` for a cache to be made from a data set."""
    return {
        "kind": KIND,
        "version": VERSION,
        "layout": asdict(layout),
        "source": fingerprint(dataset),
        "class_names": [storable(name) for name in dataset.class_names],
        "splits": {
            split: {"examples": len(source)}
            for split, source in zip(SPLITS, (dataset.train, dataset.eval), strict=True)
        },
    }
