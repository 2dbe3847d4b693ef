"""Files that no output may replace: a run's, a cache's, and the command's own input."""

import json
import os
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path, PurePath

from alexnet.config import TrainConfig
from alexnet.data import cache, mean_image
from alexnet.errors import UserError
from alexnet.files import as_path, first_bytes, is_remote
from alexnet.metrics import EVENTS, METRICS
from alexnet.workdir import CHECKPOINTS, CONFIG, OWN

_OF_A_CACHE = (cache.META, cache.PLAN, mean_image.STATISTICS, "*.images", "*.index")
_OF_A_RUN = (CONFIG, *OWN, CHECKPOINTS, EVENTS)
_KEYS = {part.name for part in fields(TrainConfig)} - {"devices"}  # in any run's configuration
_LONGEST = 1 << 20  # bytes of a configuration


def check_replaceable(target: str | PurePath, source: str | PurePath | None = None) -> None:
    """Refuse to write over a run's or a cache's own files, or over `source`.

    Args:
        target: the output's path; a new file is always allowed.
        source: an input file or folder; an address such as hf://ORG/NAME is neither.

    Raises:
        UserError: saying whose file it is.
    """
    path = _real(target)
    if not path.is_file():
        return
    if source is not None and "://" not in str(source):
        read = _real(source)
        if path == read or (path.parent == read and not holds_run(read)):
            raise UserError(f"{target} is what is read: write to another file")
    for folder in path.parents:
        if path.relative_to(folder).parts[0] in _OF_A_RUN and holds_run(folder):
            raise UserError(
                f"can't write {target}: it is a file of the run in {folder}: write to another one"
            )
    folder = path.parent
    in_cache = any((folder / name).is_file() for name in (cache.META, cache.PLAN))
    if in_cache and any(fnmatch(path.name, name) for name in _OF_A_CACHE):
        raise UserError(
            f"can't write {target}: it is a file of the cache in {folder}: write to another one"
        )


def holds_run(folder: Path) -> bool:
    """Return True for a run, not another program's folder with a config.json and checkpoints."""
    if not (folder / CONFIG).is_file():
        return False
    if not (folder / METRICS).is_file() and not (folder / CHECKPOINTS).is_dir():
        return False
    try:
        found = json.loads(first_bytes(folder / CONFIG, _LONGEST))
    except (OSError, ValueError):  # a run's would be valid
        return False
    return isinstance(found, dict) and found.keys() >= _KEYS


def _real(path: str | PurePath) -> Path:
    found = as_path(path)
    return found if is_remote(found) else Path(os.path.realpath(found))
