"""Paths on Google Cloud Storage, with pathlib's methods and, where something fails, its errors.

`etils.epath` does the arithmetic of names and gcsfs the requests. A bucket knows objects and no
folders: a folder is there as soon as an object's name begins with its own.
"""

import errno
import functools
import io
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

import fsspec
from etils.epath import gpath

from alexnet.errors import UserError

THREADS = 16  # requests at a time where there are many small ones
_BUFFER, _BLOCK = 8 << 20, 64 << 20  # bytes asked for at a time: at least, at most

# Orbax goes through epath and gcsfs too, and these hold for it as well. TensorFlow, where it is
# installed, would be imported to read these paths; listings from memory miss what TensorStore and
# other processes write; of hierarchical buckets gcsfs asks another service, over gRPC.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # failures are raised, and said once


class GcsPath(gpath.PosixGPath):
    """gs://BUCKET/NAME.

    Methods that ask Google raise FileNotFoundError, PermissionError, ConnectionError or another
    OSError whose `strerror` says what is wrong.
    """

    @property
    def parent(self) -> "GcsPath":
        """The folder that it is in; a bucket is in itself, as / is."""
        above = super().parent
        return self if str(above) == "gs://" else above

    def exists(self) -> bool:
        """Whether there is such an object, or one below it."""
        return self._info() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        return (self._info() or {}).get("type") == "directory"

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return (self._info() or {}).get("type") == "file"

    def absolute(self) -> "GcsPath":
        """Itself: there is no working directory in a bucket."""
        return self

    def iterdir(self) -> Iterator["GcsPath"]:
        """What is right below it; nothing where it isn't there, as after `mkdir`."""
        for name, _ in self.entries():
            yield self / name

    def entries(self) -> list[tuple[str, bool]]:
        """Names right below it, sorted, and whether each is a folder."""
        try:
            with self._google() as google:
                found = google.ls(str(self), detail=True)
        except FileNotFoundError as error:
            if error.strerror == _NO_OBJECT:
                return []
            raise
        own = str(self).removeprefix("gs://")
        if any(entry["name"] == own and entry["type"] == "file" for entry in found):
            raise NotADirectoryError(errno.ENOTDIR, "it is an object, not a folder", str(self))
        names = {e["name"].rstrip("/"): e["type"] == "directory" for e in found}
        return sorted((n.rpartition("/")[2], folder) for n, folder in names.items() if n != own)

    def files(self) -> list["GcsPath"]:
        """All objects below it, in any depth, sorted."""
        with self._google() as google:
            found = google.find(f"{self}/")
        return [GcsPath(f"gs://{name}") for name in sorted(found) if not name.endswith("/")]

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing but the check that it isn't there: folders need no making."""
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def open(self, mode: str = "r", **options: Any) -> BinaryIO | TextIO:
        """The object, read piece by piece as it is needed; other modes than reading are epath's."""
        if mode not in ("r", "rb"):
            return super().open(mode, **options)
        binary = io.BufferedReader(_Reader(self), _BUFFER)
        return binary if mode == "rb" else io.TextIOWrapper(binary, encoding="utf-8")

    def first_bytes(self, size: int) -> bytes:
        """The first `size` bytes, fewer where it is shorter, in one request."""
        try:
            with self._google() as google:
                return google.cat_file(str(self), start=0, end=size)
        except OSError as error:
            if getattr(error.__cause__, "code", None) == 416:  # no first byte: it is empty
                return b""
            raise

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make an empty object, if there is none."""
        if not self.exists():
            self.write_bytes(b"")

    def write_bytes(self, data: bytes) -> int:
        """Become an object with these bytes."""
        with self._google() as google:
            google.pipe_file(str(self), data)
        return len(data)

    def write_text(self, text: str, encoding: str | None = None, errors: str | None = None) -> int:
        """Become an object with this text, in UTF-8."""
        return self.write_bytes(text.encode())

    def rename(self, target: str | os.PathLike) -> "GcsPath":
        """Copy every object below it and delete the old ones; someone else may meet both."""
        target = GcsPath(target)
        for path in self.files():
            with self._google() as google:
                google.cp_file(str(path), str(target / path.relative_to(self)))
            path.unlink()
        return target

    def upload(self, local: str | os.PathLike) -> None:
        """Become a copy of a local file: readers meet the old object or the new, never a part."""
        with self._google() as google:
            google.put_file(os.fspath(local), str(self), consistency="md5")

    def download(self, local: str | os.PathLike) -> None:
        """Copy it into a local file."""
        with self._google() as google:
            google.get_file(str(self), os.fspath(local))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        try:
            with self._google() as google:
                google.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False) -> None:
        """Delete every object below it."""
        found = self.files()
        if not found and not missing_ok:
            raise self._absent()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda path: path.unlink(missing_ok=True), found))

    def _info(self) -> dict[str, Any] | None:
        """What Google says of it; None where there is no such object or folder."""
        with self._google() as google:
            try:
                return google.info(str(self))
            except FileNotFoundError:
                return None

    @contextmanager
    def _google(self) -> Iterator[Any]:
        """gcsfs, for a block in which what the libraries raise becomes pathlib's errors."""
        filesystem = _filesystem()
        try:
            yield filesystem
        except _failures() as error:
            raise self._plain(error) from error

    def _plain(self, error: Exception) -> OSError:
        import aiohttp
        import google.auth.exceptions
        import requests

        code, said = getattr(error, "code", None), str(error).strip().rpartition("\n")[2]
        offline = (aiohttp.ClientError, requests.RequestException, TimeoutError)
        if isinstance(error, FileNotFoundError):
            return self._absent()
        if str(error).startswith("Forbidden: "):  # how gcsfs words a 403
            return PermissionError(errno.EACCES, f"Google does not permit it: {said}", str(self))
        if code == 401 or isinstance(error, google.auth.exceptions.GoogleAuthError):
            return PermissionError(errno.EACCES, f"{_NO_CREDENTIALS} ({said})", str(self))
        if isinstance(error, offline):
            what = f"Google Cloud Storage can't be reached: {said or type(error).__name__}"
            return ConnectionError(errno.ECONNABORTED, what, str(self))
        if isinstance(error, OSError) and error.errno:  # of the local disk
            return error
        return OSError(errno.EIO, f"Google Cloud Storage answered: {said}", str(self))

    def _absent(self) -> FileNotFoundError:
        """What to raise where there is nothing: the bucket may be the reason."""
        bucket = str(self).removeprefix("gs://").partition("/")[0]
        reason = _NO_OBJECT
        try:
            _filesystem().call("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError:
            reason = f"there is no bucket gs://{bucket}"
        except _failures():
            pass  # whether there is one can't be told
        return FileNotFoundError(errno.ENOENT, reason, str(self))


_NO_OBJECT = "there is no such object"
_NO_CREDENTIALS = (
    "Google knows no valid credentials here: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a key file"
)


class _Reader(io.RawIOBase):
    """An object's bytes from any place, all of the object that was there at the beginning."""

    def __init__(self, path: GcsPath):
        info = path._info()
        if info is None:
            raise path._absent()
        if info["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._path, self._size, self._at = path, info["size"], 0
        self._generation = info.get("generation")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at, _BLOCK)
        if count <= 0:
            return 0
        url, end = str(self._path), self._at + count
        try:
            with self._path._google() as google:
                data = google.cat_file(url, start=self._at, end=end, generation=self._generation)
        except FileNotFoundError as error:
            reason = "it was replaced or deleted while it was read"
            raise OSError(errno.EIO, reason, url) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = memoryview(bytearray(max(0, self._size - self._at)))
        read = 0
        while count := self.readinto(data[read:]):
            read += count
        return bytes(data[:read])


@functools.cache
def _filesystem() -> Any:
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"gs:// paths need a package that isn't installed ({error.name}): "
            "run pip install -c constraints.txt -e '.[gcs]' in this project's checkout"
        ) from error
    return fsspec.filesystem("gcs")


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What gcsfs raises where a request fails."""
    import aiohttp
    import google.auth.exceptions
    from gcsfs import retry

    return (
        OSError,
        ValueError,  # a name that no bucket can have
        aiohttp.ClientError,
        google.auth.exceptions.GoogleAuthError,
        retry.HttpError,
        retry.ChecksumError,
        retry.NonRetryableError,
    )
