"""A directory that is built next to its final path, and renamed to it once it is complete."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.errors import RunError, UserError
from alexnet.files import forget_temporary, sync, temporary_beside


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new directory next to a local one, removed at the end if it is still there.

    Directories left for the same target by killed processes of this host are removed first.

    Raises:
        UserError: if none can be made there.
        RunError: if it can't be written to the disk.
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
    """Rename a complete directory; False if the target exists, unless as an empty directory."""
    sync(directory)
    try:
        os.rename(directory, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    sync(target.parent)
    return True
