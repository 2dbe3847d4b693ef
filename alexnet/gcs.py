"""Google Cloud Storage for `etils.epath`: gcsfs, with readable errors and without surprises.

Importing this changes the file system behind all gs:// paths of the process, including Orbax's. A
bucket has objects but no folders: a folder exists as soon as an object's name begins with its own.
"""

import asyncio
import errno
import logging
import os
import re
from typing import Any
from urllib.parse import unquote

# Otherwise TensorFlow, if installed, would be imported to read these paths; and for hierarchical
# buckets, gcsfs would query another service, over gRPC.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import aiohttp
import fsspec
import gcsfs
import google.auth.exceptions
import requests
from etils import epath  # noqa: F401  (for `files.as_path`)
from fsspec.asyn import sync_wrapper

_NO_OBJECT = "there is no such object"
_NO_CREDENTIALS = (
    "Google knows no valid credentials here: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a key file"
)
_AUTH = google.auth.exceptions
_OFFLINE = (aiohttp.ClientError, requests.RequestException, _AUTH.TransportError, TimeoutError)
_LONGEST = 300  # characters of a reply from Google, or from a proxy in between


class Storage(gcsfs.GCSFileSystem):
    """gcsfs that acts like pathlib: an OSError's `strerror` has the reason, no name is a pattern.

    An empty folder is one that doesn't exist yet, and buckets are neither created nor deleted.
    """

    async def _call(self, method: str, path: str, *args: str, **options: Any) -> Any:
        """Make a request: all go through here, including those of open files."""
        try:
            return await super()._call(method, path, *args, **options)
        except Exception as error:
            raise explained(error, *_object(path, args)) from error

    call = sync_wrapper(_call)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> gcsfs.core.GCSFile:
        file = super()._open(path, mode, **options)
        if mode == "rb" and file.details["type"] == "directory":  # would read as an empty file
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"gs://{path}")
        return file

    async def _ls(self, path: str, detail: bool = False, **options: Any) -> list:
        own = self._strip_protocol(path).rstrip("/")
        try:
            found = await super()._ls(path, detail=True, **options) if own else []
        except FileNotFoundError as error:
            if error.strerror != _NO_OBJECT:
                raise
            found = []
        if any(entry["name"] == own and entry["type"] == "file" for entry in found):
            raise NotADirectoryError(errno.ENOTDIR, "it is an object, not a folder", f"gs://{own}")
        # A folder made in Google's console is an object of its own, and is listed in itself.
        found = [entry for entry in found if entry["name"].rstrip("/") != own]
        return found if detail else [entry["name"] for entry in found]

    async def _isdir(self, path: str) -> bool:
        try:
            return (await self._info(path))["type"] == "directory"
        except FileNotFoundError:
            return False  # gcsfs says so whatever the error is

    async def _expand_path(self, path: Any, recursive: bool = False, **_: Any) -> list[str]:
        paths = {self._strip_protocol(one) for one in ([path] if isinstance(path, str) else path)}
        for folder in tuple(paths) if recursive else ():
            paths.update(await self._find(folder, withdirs=True))
        return sorted(paths)

    async def _rm_files(self, paths: list[str]) -> list:
        deleted = (self._rm_file(path) for path in paths)  # a batch's errors are unreadable
        return await asyncio.gather(*deleted, return_exceptions=True)

    async def _rmdir(self, bucket: str) -> None:
        pass

    def mkdir(self, path: str, **options: Any) -> None:
        """Do nothing: folders need no making."""


# Cached listings would miss files that TensorStore and other processes write.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
fsspec.register_implementation("gcs", Storage, clobber=True)
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # failures are raised, and reported once


def storage() -> Storage:
    """The file system, for operations that paths have no methods for; names begin with gs://."""
    return fsspec.filesystem("gcs")


def explained(error: Exception, bucket: str, name: str) -> OSError:
    """An OSError, with `strerror`, for an error from aiohttp, Google's libraries or gcsfs."""
    url = f"gs://{bucket}/{name}"
    said = str(error).strip().rpartition("\n")[2][:_LONGEST]
    said = "".join(filter(str.isprintable, said))
    if isinstance(error, FileNotFoundError):
        reason = _NO_OBJECT if name else f"there is no bucket gs://{bucket}"
        return FileNotFoundError(errno.ENOENT, reason, url)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "there is such an object already", url)
    if str(error).startswith("Forbidden: "):  # how gcsfs words a 403
        return PermissionError(errno.EACCES, f"Google does not permit it: {said}", url)
    if isinstance(error, _OFFLINE):
        reason = f"Google Cloud Storage can't be reached: {said or type(error).__name__}"
        return ConnectionError(errno.ECONNABORTED, reason, url)
    if getattr(error, "code", None) == 401 or isinstance(error, _AUTH.GoogleAuthError):
        return PermissionError(errno.EACCES, f"{_NO_CREDENTIALS} ({said})", url)
    return OSError(errno.EIO, f"Google Cloud Storage answered: {said}", url)


def _object(path: str, args: tuple[str, ...]) -> tuple[str, str]:
    """The bucket and object of a request, from its path with `args` filled in.

    A listing or an upload concerns the bucket: it fails if the bucket doesn't exist.
    """
    if args:
        return args[0], (*args, "")[1]
    found = re.search(r"(?:^|/)b/([^/?]+)(?:/o/([^?]+))?", path)
    return (unquote(found[1]), unquote(found[2] or "")) if found else ("", "")
