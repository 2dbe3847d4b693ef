"""A cache on Google Cloud Storage: copied to a local disk once, with progress.

Every training step reads hundreds of images from anywhere in the cache. As requests to a bucket,
they would be far slower than training itself, and would be charged for in every epoch.
"""

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from alexnet.data.cache import META, SPLITS, images_file, index_file, read_meta
from alexnet.errors import RunError
from alexnet.files import atomic_write, storage_of
from alexnet.user_cache import user_cache

_BLOCK = 64 << 20  # bytes a request
_SAID_EVERY = 10  # seconds


def local_copy(folder: Path) -> Path:
    """The folder of a cache's local copy, which is made or completed if necessary.

    It is in `~/.cache/alexnet/caches`, or below `$XDG_CACHE_HOME`, under a name derived from the
    content of `meta.json`. Files already there with the right size are not copied again; their
    content is checked when it is read.

    Raises:
        UserError: if there is no cache.
        RunError: if the bucket can't be read, or the disk is full.
    """
    meta, storage = read_meta(folder), storage_of(folder)
    name = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:32]
    target = user_cache("caches") / name
    files = [make(folder, split) for split in SPLITS for make in (index_file, images_file)]
    files.append(folder / META)  # last: it marks the copy as complete
    try:
        target.mkdir(parents=True, exist_ok=True)
        sizes = {file: int(storage.info(str(file))["size"]) for file in files}
        todo = [file for file in files if not _is_there(target / file.name, sizes[file])]
        need, free = sum(sizes[file] for file in todo), shutil.disk_usage(target).free
        if need > free:
            raise RunError(
                f"{folder} takes {need / 1e9:.1f} GB more, but the disk of {target} has "
                f"{free / 1e9:.1f} GB free: set XDG_CACHE_HOME to a larger disk"
            )
        progress = _Progress(folder, need)
        for file in todo:
            _copy(storage, file, target / file.name, sizes[file], progress)
    except OSError as error:
        raise RunError(f"{folder} can't be copied: {error.strerror or error}") from error
    return target


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _copy(storage: Any, source: Path, target: Path, size: int, progress: "_Progress") -> None:
    with atomic_write(target) as file:
        for start in range(0, size, _BLOCK):
            data = storage.cat_file(str(source), start=start, end=min(start + _BLOCK, size))
            file.write(data)
            progress.add(len(data))


class _Progress:
    """Progress messages on standard error: now and then, how much has been copied."""

    def __init__(self, folder: Path, total: int):
        self._folder, self._total, self._done = folder, total, 0
        self._said = time.monotonic()

    def add(self, count: int) -> None:
        self._done, now = self._done + count, time.monotonic()
        if now - self._said >= _SAID_EVERY or (self._done == self._total and self._total > _BLOCK):
            self._said = now
            shares = f"{self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB"
            print(f"copying {self._folder}: {shares}", file=sys.stderr, flush=True)
