"""Files read whole and written whole: a reader of a path never meets half a file.

A path is a `pathlib.Path`, or on Google Cloud Storage an `alexnet.gcs.GcsPath`, which has the same
methods: `as_path` decides which. What differs between the two is told apart here.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from alexnet.errors import RunError, UserError

MAX_READ = 4 << 30  # bytes; the largest AlexNet file, an fp32 training checkpoint, is 0.5 GB
REMOTE = "gs://"


def as_path(text: str | PurePath) -> Path:
    """A local path, or one on Google Cloud Storage for gs://BUCKET/NAME.

    Raises:
        UserError: for a URL of another kind, or without a bucket.
    """
    if isinstance(text, PurePath) or "://" not in text:
        return Path(text) if isinstance(text, str) else text
    if not text.startswith(REMOTE):
        raise UserError(f"{text} is a URL that can't be read: give a local path or gs://BUCKET/...")
    if not text[len(REMOTE) :].strip("/"):
        raise UserError(f"{text} names no bucket: write gs://BUCKET/PATH")
    from alexnet.gcs import GcsPath

    return GcsPath(text)


def is_remote(path: str | PurePath) -> bool:
    """Whether a path is on Google Cloud Storage."""
    return str(path).startswith(REMOTE)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A new binary file that takes its name only once it is complete and on disk.

    It is written beside `path` under a temporary name, which is removed if the block raises; what
    was at `path` stays as it was until then. On gs:// it is uploaded when the block ends.

    Raises:
        UserError: where no file can be made there.
        RunError: where the disk refuses it, full for instance, or Google can't be reached.
    """
    if is_remote(path):
        with _explained(path), staged(as_path(path)) as local, local.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))  # through a link, the file it names is replaced
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if path.is_dir():
        raise UserError(f"can't write {path}: it is a directory")
    try:
        file = open(temporary, "xb")  # noqa: SIM115  (closed below, before the rename)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    sync(path.parent)


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Say what could not be written, and tell the user's mistakes from what failed."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:  # no such bucket, no right to write
        raise UserError(f"can't write {path}: {error.strerror}") from error
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A local path to write a file to: `path` itself, or one uploaded to it when the block ends.

    For libraries that write local files only.

    Raises:
        OSError: where it can't be uploaded.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
        local = Path(folder) / path.name
        yield local
        path.upload(local)


@contextlib.contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A local path to read a file from: `path` itself, or a copy that lasts as long as the block.

    Raises:
        OSError: where it can't be downloaded.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
        local = Path(folder) / path.name
        path.download(local)
        yield local


def upload(local: Path, path: Path) -> None:
    """Copy a local file to gs://, whole or not at all.

    Raises:
        UserError: where nothing can be written there.
        RunError: where Google can't be reached.
    """
    with _explained(path):
        path.upload(local)


def remove_tree(path: Path) -> None:
    """Delete a directory and all that is in it; one that is gone already is no error."""
    if is_remote(path):
        path.rmtree(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def list_files(directory: Path) -> list[Path]:
    """All files below a directory, in any depth, sorted."""
    if is_remote(directory):
        return directory.files()
    return sorted(path for path in directory.rglob("*") if path.is_file())


def walk(directory: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """A directory, its folders' names and its files' names, and so on for each folder in it.

    Links are followed. Names that the caller takes out of the second list are not gone into.

    Raises:
        OSError: where one of the folders can't be listed.
    """
    if not is_remote(directory):
        yield from os.walk(directory, followlinks=True, onerror=_raise)
        return
    entries = directory.entries()
    folders = [name for name, is_folder in entries if is_folder]
    yield str(directory), folders, [name for name, is_folder in entries if not is_folder]
    for name in folders:
        yield from walk(directory / name)


def _raise(error: OSError) -> None:
    raise error


def sync(path: Path) -> None:
    """Put a file's bytes, or a directory's names, on disk, where the system lets them be synced."""
    if is_remote(path):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_whole(path: str | Path, limit: int = MAX_READ) -> memoryview:
    """The bytes of a file, writable and in memory.

    Not a memory map: a mapped file that someone truncates meanwhile would kill the process.

    Raises:
        UserError: where there is no such file, or it is larger than `limit` bytes.
    """
    import numpy as np  # not for --help

    try:
        with as_path(path).open("rb") as file:
            size = _size(file)
            if size > limit:
                raise UserError(f"{path} has {size:,} bytes; more than {limit:,} are not read")
            data = memoryview(np.empty(size, np.uint8))
            if file.readinto(data) != size:
                raise UserError(f"{path} changed while it was read")
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    return data


@contextlib.contextmanager
def open_file(path: str | Path, limit: int = MAX_READ) -> Iterator[BinaryIO]:
    """A regular file opened for reading piece by piece.

    Raises:
        UserError: where there is no such file, it is larger than `limit` bytes, or reading fails.
    """
    try:
        # Opening a FIFO would wait for a writer, and a device never ends.
        if not is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"can't read {path}: it is not a regular file")
        with as_path(path).open("rb") as file:
            if _size(file) > limit:
                raise UserError(f"{path} has more than the {limit:,} bytes that are read")
            yield file
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def read_all(file: BinaryIO) -> memoryview:
    """The bytes of a file that is open at its start, writable and in memory."""
    import numpy as np  # not for --help

    data = memoryview(np.empty(_size(file), np.uint8))
    if file.readinto(data) != len(data):
        raise UserError("it changed while it was read")
    return data


def _size(file: BinaryIO) -> int:
    """Bytes in a file that is open at its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def read_head(path: str | Path, size: int) -> bytes:
    """The first `size` bytes of a file, fewer where it is shorter.

    Raises:
        UserError: where there is no such file.
    """
    try:
        return first_bytes(as_path(path), size)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def first_bytes(path: Path, size: int) -> bytes:
    """What `read_head` reads, in one request where it is on gs://.

    Raises:
        OSError: where it can't be read.
    """
    if is_remote(path):
        return path.first_bytes(size)
    with path.open("rb") as file:
        return file.read(min(size, os.fstat(file.fileno()).st_size))
