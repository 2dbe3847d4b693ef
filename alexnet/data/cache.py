"""A prepared copy of a data set: square images of one size, in one file a split, raw or as JPEG.

A cache is a folder with `meta.json`, which says what it holds and has a digest of itself, and for
each of the splits `train` and `eval` two files: SPLIT.images, one image after another, and
SPLIT.index, a RECORD for each image. `meta.json` has the index's digest, which is compared when
the cache is opened; the index has each image's checksum, which is compared when the image is read:
of JPEG each time, of raw images the first time in a process.
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
from alexnet.files import open_file, read_all
from alexnet.preprocess import EvalProtocol, ResizeRule
from alexnet.text import is_text, printable, storable

META, PLAN = "meta.json", "plan.json"  # of a finished cache, and of one in the making
SPLITS = ("train", "eval")
KIND, VERSION = "alexnet cache", 1
# state is MISSING while a cache is made; name has the last characters of the example's own.
RECORD = np.dtype(
    [("length", "<u4"), ("crc", "<u4"), ("label", "<i4"), ("state", "<u4"), ("name", "S80")]
)
MISSING, WHOLE, UNREADABLE = range(3)
Format = Literal["raw", "jpeg"]
_LARGEST = 1 << 13  # pixels a side
_LONGEST_NAME = 4096  # characters of a class's name
_FIELDS = {"kind", "version", "layout", "name", "source", "class_names", "splits"}


@dataclass(frozen=True)
class Layout:
    """Form of a cache's images."""

    format: Format = "raw"
    size: int = 256  # pixels a side
    channels: int = 3
    resize_rule: ResizeRule = "short"  # before the central square is cut out
    quality: int = 90  # of JPEG

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
    images: int  # descriptor of the file of images, closed with the source
    records: np.ndarray  # RECORD [N]
    offsets: np.ndarray  # int64 [N], of the images in their file
    index_digest: str
    seen: np.ndarray = field(init=False)  # bool [N]: raw images whose checksums were compared

    def __post_init__(self) -> None:
        """Note that no image was read yet, and to close the file."""
        weakref.finalize(self, os.close, self.images)
        object.__setattr__(self, "seen", np.zeros(len(self.records), bool))

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened anew where it is unpickled."""
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
        if self.layout.format == "jpeg":
            return self._encoded(index)
        image = np.empty((self.side, self.side, self.channels), np.uint8)
        return image, self.read(index, image)

    def read(self, index: int, image: np.ndarray) -> int:
        """Fill `image` (uint8 [S, S, C], contiguous) with an image; gives its label.

        Raises:
            BadImage: where it was unreadable when the cache was made.
            RunError: where it is damaged, or can't be read now.
        """
        if self.layout.format == "jpeg":
            data, label = self._encoded(index)
            self._decode(index, data, image)
            return label
        record = self._record(index)
        # Read, not mapped into memory: a disk's error is an exception then, and no signal.
        self._take(index, image)
        if not self.seen[index]:
            self._compare(index, image, record)
            self.seen[index] = True
        return int(record["label"])

    def describe(self, index: int) -> str:
        """The example's own name, and its number and split here."""
        name = self.records[index]["name"].decode(errors="replace")
        return f"{printable(name)}, example {index} of {self.name}"

    def digest(self) -> str:
        """Digest of images, labels and names."""
        return sha256(repr((self.layout, self.index_digest)).encode()).hexdigest()

    def _record(self, index: int) -> np.void:
        record = self.records[index]
        if record["state"] != WHOLE:
            raise BadImage("it was unreadable when the cache was made")
        return record

    def _encoded(self, index: int) -> tuple[bytes, int]:
        record = self._record(index)
        data = np.empty(record["length"], np.uint8)
        self._take(index, data)
        self._compare(index, data, record)
        return data.tobytes(), int(record["label"])

    def _take(self, index: int, into: np.ndarray) -> None:
        try:
            count = os.preadv(self.images, [into.data], int(self.offsets[index]))
        except OSError as error:
            raise RunError(f"{self.describe(index)} can't be read: {error.strerror}") from error
        if count != into.nbytes:
            raise self._damaged(index, "the file of images has become shorter")

    def _compare(self, index: int, data: np.ndarray, record: np.void) -> None:
        if checksum(data) != record["crc"]:
            raise self._damaged(index, "its checksum is another")

    def _decode(self, index: int, data: bytes, image: np.ndarray) -> None:
        import simplejpeg

        try:
            if simplejpeg.decode_jpeg_header(data)[:2] != image.shape[:2]:
                raise self._damaged(index, "its size is another")
            simplejpeg.decode_jpeg(data, "GRAY" if self.channels == 1 else "RGB", buffer=image)
        except ValueError as error:
            raise self._damaged(index, printable(str(error))) from error

    def _damaged(self, index: int, reason: str) -> RunError:
        return RunError(
            f"{self.describe(index)} is damaged: {reason}; `alexnet prepare SOURCE DST --check`, "
            "as the cache was made, replaces what is damaged"
        )


def checksum(data: np.ndarray | bytes) -> int:
    """CRC-32C of a contiguous array's bytes."""
    import google_crc32c

    return google_crc32c.value(data)


def open_cache(folder: Path, name: str) -> Dataset:
    """Open a cache.

    Args:
        folder: that `alexnet prepare` made.
        name: the data set's, for messages.

    Raises:
        UserError: where there is none, or it is unfinished, damaged or malformed.
    """
    train, held_out = (open_split(folder, split, f"{name}, {split}") for split in SPLITS)
    names = tuple(read_meta(folder)["class_names"])
    for source in (train, held_out):
        labels = source.records["label"][source.records["state"] == WHOLE]
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise UserError(f"{source.name} has labels of classes that {META} does not name")
    return Dataset(name, train, held_out, names)


def read_meta(folder: Path, file: str = META) -> dict[str, Any]:
    """What a cache's `meta.json` or `plan.json` says, checked: a cache may come from anyone.

    Raises:
        UserError: where there is none, or it is not as it was written.
    """
    if not (folder / file).is_file():
        raise _no_cache(folder)
    try:
        meta = sealed.read(folder / file)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / file} can't be used: {error}") from error
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
        UserError: where its files are not of the size, or its index not of the digest told.
    """
    meta = read_meta(folder)
    said, layout = meta["splits"][split], Layout(**meta["layout"])
    records = read_index(folder, split, said["examples"])
    found = index_digest(records)
    if found != said.get("index"):
        raise UserError(f"{index_file(folder, split)} is damaged: delete {folder}, prepare it anew")
    path, lengths = images_file(folder, split), records["length"].astype(np.int64)
    with open_file(path, 2**62) as file:  # refuses what is no file
        size = os.fstat(file.fileno()).st_size
        images = os.dup(file.fileno())
    offsets = np.cumsum(lengths) - lengths
    source = CacheSource(name, folder, split, layout, images, records, offsets, found)
    raw = layout.format == "raw"
    whole = (lengths == layout.raw_bytes if raw else lengths <= MAX_BYTES).all()
    if size != int(lengths.sum()) or not whole:
        raise UserError(
            f"{path} has {size:,} bytes, not those that its index says: delete {folder}, prepare "
            "it anew"
        )
    return source


def images_file(folder: Path, split: str) -> Path:
    """The file of a split's images."""
    return folder / f"{split}.images"


def index_file(folder: Path, split: str) -> Path:
    """The file of a split's index."""
    return folder / f"{split}.index"


def read_index(folder: Path, split: str, examples: int) -> np.ndarray:
    """A split's index: RECORD [examples], writable.

    Raises:
        UserError: where it can't be read, or has another length.
    """
    path, size = index_file(folder, split), examples * RECORD.itemsize
    with open_file(path, size) as file:
        data = np.frombuffer(read_all(file), np.uint8)
    if len(data) != size:
        raise UserError(f"{path} has {len(data):,} bytes, but {examples:,} examples have {size:,}")
    return data.view(RECORD)


def index_digest(records: np.ndarray) -> str:
    """SHA-256 of an index."""
    return sha256(records.view(np.uint8).data).hexdigest()


def description(layout: Layout, dataset: Dataset, name: str) -> dict[str, Any]:
    """What `plan.json` says of a cache that is to be made of the data set called `name`."""
    return {
        "kind": KIND,
        "version": VERSION,
        "layout": asdict(layout),
        "name": storable(name),
        "source": fingerprint(dataset),
        "class_names": [storable(name) for name in dataset.class_names],
        "splits": {
            split: {"examples": len(source)}
            for split, source in zip(SPLITS, (dataset.train, dataset.eval), strict=True)
        },
    }
