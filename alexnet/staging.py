"""A directory that is built beside its place, and takes that once it is complete."""

import contextlib
import errno
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from alexnet.errors import RunError, UserError
from alexnet.files import remove_tree, sync

_HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:40]


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new directory beside a local one, removed in the end if it is still there.

    Those that killed processes of this host left for the same target are removed first.

    Raises:
        UserError: where none can be made there.
        RunError: where the disk refuses what is written.
    """
    _remove_stale(target)
    name = f".{target.name}.{_HOST}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    directory = target.with_name(name)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't write {target}: {error.strerror}") from error
    try:
        yield directory
    except OSError as error:
        raise RunError(f"could not write {target}: {error.strerror or error}") from error
    finally:
        remove_tree(directory)


def take_place(directory: Path, target: Path) -> bool:
    """Rename a complete directory to where nothing, or an empty directory, is; False elsewhere."""
    sync(directory)
    try:
        os.rename(directory, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    sync(target.parent)
    return True


def _remove_stale(target: Path) -> None:
    own = re.compile(rf"\.{re.escape(target.name)}\.{_HOST}\.([0-9]+)-[0-9a-f]{{8}}\.tmp")
    for path in target.parent.glob(".*.tmp") if target.parent.is_dir() else ():
        if (match := own.fullmatch(path.name)) and not _is_alive(int(match[1])):
            remove_tree(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
