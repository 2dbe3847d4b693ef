"""Layer outputs in an .npz file, written row by row, since many images' may not fit in memory."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from alexnet.errors import RunError
from alexnet.files import as_path, atomic_write, check_target, is_remote

Take = Callable[[np.ndarray, Sequence[str]], None]  # takes rows and the names of their images


@contextlib.contextmanager
def feature_file(path: str, layer: str) -> Iterator[Take]:
    """A function that adds rows to the file, where `np.load` finds `features`, `names` and `layer`.

    The file is written when the block ends, whole or not at all, and only if there were rows.

    Raises:
        UserError: if no file can be made there.
        RunError: if writing fails, for instance because the disk is full.
    """
    shape, dtype, names = list[int](), np.dtype("<f4"), list[str]()
    check_target(path)
    with tempfile.TemporaryFile(dir=None if is_remote(path) else as_path(path).parent) as rows:

        def take(outputs: np.ndarray, called: Sequence[str]) -> None:
            shape[:] = outputs.shape[1:]
            names.extend(called)
            with _refused(path):
                rows.write(np.ascontiguousarray(outputs, dtype).data)

        yield take
        if not names:
            return
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(names), *shape)}
        with _refused(path), atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
            rows.seek(0)
            with archive.open("features.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(rows, member, 1 << 20)
            for name, value in (("names", names), ("layer", layer)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.array(value), allow_pickle=False)


@contextlib.contextmanager
def _refused(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error
