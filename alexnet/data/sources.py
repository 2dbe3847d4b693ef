"""Data sets by their `--dataset` name."""

from pathlib import Path, PurePath

from alexnet.data.dataset import Dataset
from alexnet.errors import UserError, unknown
from alexnet.files import as_path, at_home, is_remote

KINDS = ("digits", "tfds:NAME", "folder:PATH", "cache:PATH", "synthetic")


def open_dataset(
    name: str,
    *,
    data_dir: str | PurePath | None = None,
    seed: int = 0,
    channels: int = 3,
    size: int = 256,
) -> Dataset:
    """Open the data set called `name`, one of KINDS.

    Args:
        name: a value of `--dataset`.
        data_dir: directory of prepared TFDS data sets; by default the one that tfds itself uses.
        seed: splits a folder that isn't split on disk.
        channels: for synthetic images; images of all other data sets are converted when decoded.
        size: height and width of synthetic images.

    Raises:
        UserError: for an unknown name, or data that is missing or malformed.
    """
    if not isinstance(name, str):
        raise UserError(
            f"a data set's name is needed, as 'digits' or 'folder:PATH', not {name!r:.60}"
        )
    kind, colon, rest = name.partition(":")
    if name == "digits":
        from alexnet.data.digits import open_digits

        return open_digits()
    if name == "synthetic":
        from alexnet.data.synthetic import open_synthetic

        return open_synthetic(size, channels)
    if kind == "folder" and rest:
        from alexnet.data.folder import open_folder

        return open_folder(at_home(as_path(rest)), name, seed)
    if kind == "cache" and rest:
        from alexnet.data.cache import open_cache
        from alexnet.data.remote_cache import local_copy

        path = as_path(rest)
        return open_cache(local_copy(path) if is_remote(path) else at_home(path), name)
    if kind == "tfds" and rest:
        from alexnet.data.tfds import open_tfds

        return open_tfds(rest, None if data_dir is None else as_path(data_dir))
    if name and not colon and at_home(Path(name)).is_dir():
        raise UserError(f"unknown data set '{name}': for a folder of images write folder:{name}")
    raise unknown("data set", name, KINDS)
