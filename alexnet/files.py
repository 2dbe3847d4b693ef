"""Files on a disk or on gs://, read whole and written whole.

A path is a `pathlib.Path` or, on Google Cloud Storage, an `epath.Path`, which has the same methods.
The functions here take both, and do what those methods can't.
"""

import contextlib
import errno
import functools
import glob
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from alexnet.errors import RunError, UserError

MAX_READ = 4 << 30  # bytes; the largest AlexNet file, an fp32 training checkpoint, is 0.5 GB
REMOTE = "gs://"
_BLOCK = 64 << 20  # bytes asked of an open file at a time
_LONGEST = 120  # characters of a file's name in the name of its temporary file
_temporaries: set[Path] = set()  # files that this process is writing


def as_path(text: str | PurePath) -> Path:
    """A local path, or one on Google Cloud Storage for gs://BUCKET/NAME.

    Raises:
        UserError: for a URL of another kind or without a bucket, or if a package is missing.
    """
    url = str(check_path(text))
    if "://" not in url:
        return Path(text)
    if not url.startswith(REMOTE):
        raise UserError(f"{url} is a URL that can't be read: give a local path or gs://BUCKET/...")
    if url.rstrip("/") == "gs:":
        raise UserError(f"{url} names no bucket: write gs://BUCKET/PATH")
    try:
        from alexnet.gcs import epath
    except ImportError as error:
        raise UserError(
            f"gs:// paths need the package {error.name}, which is not installed: "
            "pip install -c constraints.txt -e '.[gcs]'"
        ) from error
    return epath.Path(url)


def at_home(path: Path) -> Path:
    """Expand `~` or `~USER` at the start of a path to the home directory.

    Raises:
        UserError: if there is no such directory.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home directory; write the whole path") from error


def check_path(path: str | PurePath) -> str | PurePath:
    """Return a path unchanged; any other type would fail later, with an obscure message.

    Raises:
        UserError: for a value of another type.
    """
    if not isinstance(path, str | PurePath):
        raise UserError(f"a path is needed, a string or a pathlib.Path, not {path!r:.60}")
    return path


def is_remote(path: str | PurePath) -> bool:
    """Return True for a path on Google Cloud Storage, False for a local one."""
    return str(path).startswith(REMOTE)


def storage_of(path: PurePath) -> Any:
    """The file system of a path on Google Cloud Storage; None for a local one."""
    if not is_remote(path):
        return None
    from alexnet.gcs import storage

    return storage()


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A new binary file that takes its name only once it is complete and on disk.

    It is written next to `path` under a temporary name, and removed if the block raises; until it
    is complete, any existing file at `path` is unchanged. Temporary files of killed processes are
    deleted. On gs:// it is uploaded when the block ends.

    Raises:
        UserError: if no file can be made there.
        RunError: if writing fails, for instance because the disk is full, or Google can't be
            reached.
    """
    if is_remote(path):
        with staged(as_path(path)) as local, local.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))  # for a link, its target is replaced
    check_target(path)
    temporary = temporary_beside(path)
    try:
        file = open(temporary, "xb")  # noqa: SIM115  (closed below, before the rename)
    except OSError as error:
        forget_temporary(temporary)
        kind = RunError if is_full(error) else UserError
        raise kind(f"can't write {path}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        forget_temporary(temporary)
    sync(path.parent)


def is_full(error: OSError) -> bool:
    """Return True if the error means a full disk or an exhausted quota, not a mistake."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def temporary_beside(path: Path) -> Path:
    """A temporary name for a file or directory to be renamed to a local `path` once complete.

    Files left for the same path by killed processes of this host are deleted. The caller must
    release the name with `forget_temporary`.
    """
    host = socket.gethostname()
    own = re.compile(rf"\..*\.([0-9]+)-[0-9a-f]{{8}}\.{re.escape(host)}\.tmp", re.DOTALL)
    short = path.name[:_LONGEST]
    for left in path.parent.glob(f".{glob.escape(short)}.*.tmp") if path.parent.is_dir() else ():
        if (found := own.fullmatch(left.name)) and not is_alive(int(found[1])):
            _remove(left)
    name = f".{short}.{os.getpid()}-{secrets.token_hex(4)}.{host}.tmp"
    _temporaries.add(temporary := path.with_name(name))
    return temporary


def forget_temporary(path: Path) -> None:
    """Release a name from `temporary_beside`, and delete anything still there."""
    _remove(path)
    _temporaries.discard(path)


def remove_temporaries() -> None:
    """Delete this process's unfinished files, before it exits at once."""
    for path in list(_temporaries):
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Return True if there is a process with this number on this host."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return True


def check_target(path: str | Path) -> None:
    """Refuse a path at which no file can be made; call it before the work that fills the file.

    Raises:
        UserError: saying why.
    """
    if is_remote(path):
        return
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a device would be replaced, too
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise UserError(f"can't write {path}: it is {kind}")
    if not path.parent.is_dir():
        raise UserError(f"can't write {path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"can't write {path}: {path.parent} can't be written to")


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A local path for a library to write to: `path`, or one uploaded to it when the block ends.

    Raises:
        UserError, RunError: if it can't be uploaded.
    """
    if (storage := storage_of(path)) is None:
        yield path
        return
    try:
        with tempfile.NamedTemporaryFile(prefix="alexnet-") as local:
            yield Path(local.name)
            storage.put_file(local.name, str(path))
    except (FileNotFoundError, PermissionError) as error:  # no such bucket, or no permission
        raise UserError(f"can't write {path}: {error.strerror}") from error
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A local path to read from: `path`, or a copy that lasts as long as the block."""
    if (storage := storage_of(path)) is None:
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="alexnet-") as local:
        storage.get_file(str(path), local.name)
        yield Path(local.name)


def remove_tree(path: Path) -> None:
    """Delete a directory and everything in it; for a link, only the link itself.

    If it is already gone, that is no error.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            cast(Any, path).rmtree()
        elif path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def list_files(directory: Path) -> list[Path]:
    """All files below a directory, at any depth, sorted; none if there is no such directory."""
    if (storage := storage_of(directory)) is None:
        return sorted(path for path in directory.rglob("*") if path.is_file())
    found = storage.find(f"{directory}/")
    return sorted(as_path(REMOTE + name) for name in found if not name.endswith("/"))


def walk(directory: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield a directory, its folder names and its file names, and so on for each folder in it.

    Links are followed. Folders that the caller removes from the list are not visited. For a folder
    that can't be listed, an OSError is raised.
    """
    if (storage := storage_of(directory)) is None:
        yield from os.walk(directory, followlinks=True, onerror=_raise)
        return
    for here, folders, names in storage.walk(str(directory), on_error="raise"):
        yield f"{REMOTE}{here}", folders, names


def _raise(error: OSError) -> None:
    raise error


def sync(path: Path) -> None:
    """Sync a file's bytes, or a directory's names, to disk, if the system supports it."""
    with contextlib.suppress(OSError):  # gs:// has nothing to sync
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


@contextlib.contextmanager
def open_file(
    path: str | Path, limit: int = MAX_READ, *, follow: bool = True
) -> Iterator[BinaryIO]:
    """Open a regular file for reading piece by piece; it may be a link only if `follow` is set.

    Raises:
        UserError: if there is no such file, it is larger than `limit` bytes, or reading fails.
    """
    check_path(path)
    try:
        opener = functools.partial(_open_regular, follow=follow)
        with (
            as_path(path).open("rb") if is_remote(path) else open(path, "rb", opener=opener) as file
        ):
            if _size(file) > limit:
                raise UserError(f"{path} has more than the {limit:,} bytes that are read")
            yield file
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def _open_regular(path: str, flags: int, follow: bool) -> int:
    """A descriptor of a regular file, opened first and then checked, to avoid a race."""
    # Opening a FIFO would wait for a writer, and reading a device may never end.
    flags |= os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise UserError(
                f"can't read {path}: it is a link, which could lead anywhere"
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"can't read {path}: it is not a regular file")
    return descriptor


def read_all(file: BinaryIO) -> memoryview:
    """Read a file that is open at its start into a writable buffer."""
    import numpy as np  # too slow to import for --help

    data, read = memoryview(cast(Any, np.empty(_size(file), np.uint8))), 0
    while count := cast(Any, file).readinto(data[read : read + _BLOCK]):
        read += count
    if read != len(data):
        raise UserError("it changed while it was read")
    return data


def _size(file: BinaryIO) -> int:
    """Size of a file in bytes; its position is then at the start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def first_bytes(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, fewer if it is shorter; only one request to a bucket."""
    if (storage := storage_of(path)) is None:
        with path.open("rb") as file:
            return file.read(min(size, os.fstat(file.fileno()).st_size))
    try:
        return storage.cat_file(str(path), start=0, end=size)
    except OSError as error:
        if getattr(error.__cause__, "code", None) == 416:  # no first byte: it is empty
            return b""
        raise
