"""Files read whole and written whole: a reader of a path never meets half a file."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import RunError, UserError

MAX_READ = 4 << 30  # bytes; the largest AlexNet file, an fp32 training checkpoint, is 0.5 GB


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A new binary file that takes its name only once it is complete and on disk.

    It is written beside `path` under a temporary name, which is removed if the block raises; what
    was at `path` stays as it was until then.

    Raises:
        UserError: where no file can be made there.
        RunError: where the disk refuses it, full for instance.
    """
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


def sync(path: Path) -> None:
    """Put a file's bytes, or a directory's names, on disk, where the system lets them be synced."""
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
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
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
    """A file opened for reading piece by piece.

    Raises:
        UserError: where there is no such file, it is larger than `limit` bytes, or reading fails.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise UserError(f"{path} has more than the {limit:,} bytes that are read")
            yield file
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def read_head(path: str | Path, size: int) -> bytes:
    """The first `size` bytes of a file, fewer where it is shorter.

    Raises:
        UserError: where there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
