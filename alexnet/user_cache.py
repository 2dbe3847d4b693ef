"""The user's own folder for files that can be made again: `~/.cache/alexnet`."""

import hashlib
import os
import platform
import stat
from pathlib import Path

from alexnet.errors import UserError


def user_cache(name: str) -> Path:
    """The folder of that name below `~/.cache/alexnet`, or `$XDG_CACHE_HOME`; it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "alexnet" / name


def own_folder(name: str) -> Path:
    """The same, made if it is missing, and private to this user: files in it may be executed.

    Raises:
        UserError: if others can write to it, or to a folder above it that is also ours.
        OSError: if it can't be made.
    """
    path = user_cache(name)
    top = user_cache("")
    top.parent.mkdir(parents=True, exist_ok=True)
    for folder in (top, *reversed(path.relative_to(top).parents[:-1]), path):
        folder = top / folder
        folder.mkdir(mode=0o700, exist_ok=True)
        check_own(folder, "the cache folder")
    return path


def trim(folder: Path, most: int) -> None:
    """Delete the oldest files of a folder until it has no more than `most` bytes."""
    files = sorted(os.scandir(folder), key=lambda file: file.stat().st_mtime)
    excess = sum(file.stat().st_size for file in files) - most
    for file in files:
        if excess <= 0:
            return
        excess -= file.stat().st_size
        Path(file.path).unlink(missing_ok=True)  # another process may be deleting it, too


def processor() -> str:
    """A name for this machine's kind of processor: programs for one may not run on another."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:16]


def check_own(path: Path | str, name: str) -> None:
    """Refuse a folder, called `name` in the error, where someone else could put code that is run.

    Raises:
        UserError: if it is another user's, or its group or everybody may write to it.
    """
    found = os.stat(path)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise UserError(
            f"{name} is {path}, to which other users can write: what is in it is run, so give a "
            f"directory of your own, or run chmod go-w '{path}'"
        )
