"""A directory that is built beside its place, and takes that once it is complete."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.errors import RunError, UserError
from alexnet.files import forget_temporary, sync, temporary_beside


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new directory beside a local one, removed in the end if it is still there.

    Those that killed processes of this host left for the same target are removed first.

    Raises:
        UserError: where none can be made there.
        RunError: where the disk refuses what is written.
    """
    directory = temporary_beside(target)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't write {target}: {error.strerror}") from error
    try:
        yield directory
    except OSError as error:
        raise RunError(f"could not write {target}: {error.strerror or error}") from error
    finally:
        forget_temporary(directory)


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
