"""Files that no command's output may replace: a run's, a cache's, and what the command reads."""

from fnmatch import fnmatch
from pathlib import Path, PurePath

from alexnet.data import cache, mean_image
from alexnet.errors import UserError
from alexnet.files import as_path, is_remote
from alexnet.metrics import EVENTS, METRICS
from alexnet.workdir import CHECKPOINTS, CONFIG, OWN

_OF_A_CACHE = (cache.META, cache.PLAN, mean_image.STATISTICS, "*.images", "*.index")


def check_replaceable(target: str | PurePath, source: str | PurePath | None = None) -> None:
    """Refuse to write over a run's or a cache's own files, or over `source`.

    Raises:
        UserError: saying whose file it is.
    """
    path = _real(target)
    if not path.is_file():
        return
    if source is not None and _real(source) == path:
        raise UserError(f"{target} is what is read: write to another file")
    for folder in path.parents:
        first = path.relative_to(folder).parts[0]
        if first in (CONFIG, *OWN, CHECKPOINTS, EVENTS) and holds_run(folder):
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
    """Tell a run from other folders with a config.json, such as Hugging Face's."""
    has_config, has_log = ((folder / name).is_file() for name in (CONFIG, METRICS))
    return has_config and (has_log or (folder / CHECKPOINTS).is_dir())


def _real(path: str | PurePath) -> Path:
    found = as_path(path)
    return found if is_remote(found) else found.resolve()
