"""Image folders: one folder per class, split on disk or by a seed."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from alexnet.data.dataset import Dataset
from alexnet.draws import stratified_split
from alexnet.errors import UserError, nearest
from alexnet.files import as_path, is_remote, walk
from alexnet.text import printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
EVAL_FOLDERS = ("val", "validation", "test")
# Folder names that suggest a split on disk, but not under the names that are required.
_TRAIN_NAMES = {"train", "training"}
_EVAL_NAMES = {*EVAL_FOLDERS, "valid", "testing"}
LISTINGS = 16  # folders listed at a time: a bucket is slow to answer for each


@dataclass(frozen=True)
class FolderSource:
    """Image files, read only when an example is asked for."""

    root: str  # the folder that contains the class folders
    files: list[str]  # each begins with `root`
    labels: np.ndarray  # int32 [N]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return as_path(self.files[index]), int(self.labels[index])

    def describe(self, index: int) -> str:
        """The file's path, with unprintable characters escaped."""
        return printable(self.files[index])

    def digest(self) -> str:
        """Digest of the files' names below `root`, and of their labels."""
        # Files below "." don't begin with it, and of those below "/" it is the first slash.
        names = "\0".join(f"/{file.removeprefix(self.root).lstrip('/')}" for file in self.files)
        digest = sha256(names.encode(errors="surrogateescape"))
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()

    def part(self, chosen: np.ndarray) -> "FolderSource":
        """The examples with these numbers."""
        return FolderSource(self.root, [self.files[i] for i in chosen], self.labels[chosen])


def open_folder(root: Path, name: str, seed: int) -> Dataset:
    """Open a folder of images, split on disk or by the seed.

    The split on disk is `root`/train and `root`/val (or validation, or test). Without one, 20 % of
    each class is held out. There is a folder per class, with images at any depth. Classes are
    numbered in the order of their names; hidden files are ignored.

    Args:
        root: local or on gs://.
        name: the data set's name, for messages.
        seed: decides which examples are held out.

    Raises:
        UserError: for a missing folder, classes without images, or classes that differ between
            training and evaluation.
    """
    if not root.is_dir():
        raise _missing(root)
    train = root / "train"
    held_out = [root / folder for folder in EVAL_FOLDERS if (root / folder).is_dir()]
    if train.is_dir() and held_out:
        return _on_disk_split(train, held_out[0], name)
    if train.is_dir() and not _images_in(train):
        raise UserError(
            f"{root} has a folder 'train' but none to evaluate on: add one called "
            f"{' or '.join(EVAL_FOLDERS)}, or use folder:{train} to hold out a part of it"
        )
    source, classes = _scan(root)
    lower = {name.lower() for name in classes}
    if lower & _TRAIN_NAMES and lower & _EVAL_NAMES and lower <= _TRAIN_NAMES | _EVAL_NAMES:
        raise UserError(
            f"the folders in {root} are called {', '.join(classes)}, as if to train and to "
            "evaluate on, and would be taken for classes: call them train and val"
        )
    kept, out = stratified_split(source.labels, seed)
    if not len(out):
        raise UserError(
            f"{root} has one image per class, so none is left to evaluate on: add more images"
        )
    return Dataset(name, source.part(kept), source.part(out), classes)


def check_outside(target: Path, dataset: Dataset) -> None:
    """Refuse to write among a folder's images, where output would be taken for more of them.

    Raises:
        UserError: for a target below the folder, unless it is hidden.
    """
    real = Path(os.path.realpath(target))
    for source in (dataset.train, dataset.eval):
        if not isinstance(source, FolderSource) or is_remote(target) or is_remote(source.root):
            continue
        root = Path(os.path.realpath(source.root))
        if not real.is_relative_to(root):
            continue
        if not any(part.startswith(".") for part in real.relative_to(root).parts):
            raise UserError(
                f"{target} is inside the image folder {source.root}, where its pictures would be "
                "taken for training images: choose a folder outside"
            )


def _on_disk_split(train: Path, held_out: Path, name: str) -> Dataset:
    (train_source, classes), (eval_source, eval_classes) = _scan(train), _scan(held_out)
    if classes != eval_classes:
        sides = [
            f"{', '.join(sorted(only)[:5])} only in {where.name}"
            for only, where in (
                (set(classes) - set(eval_classes), train),
                (set(eval_classes) - set(classes), held_out),
            )
            if only
        ]
        raise UserError(f"{train} and {held_out} have different classes: {'; '.join(sides)}")
    return Dataset(name, train_source, eval_source, classes)


def _scan(root: Path) -> tuple[FolderSource, tuple[str, ...]]:
    """All images below `root` with their labels, and the class names."""
    classes = sorted(name for name in _names_in(root)[0] if name[0] != ".")
    if not classes:
        only = "images but no folders" if _images_in(root) else "no folders"
        raise UserError(f"{root} has {only}: put the images into one folder per class")
    files: list[str] = []
    labels: list[int] = []
    with ThreadPoolExecutor(LISTINGS) as pool:
        by_class = list(pool.map(images_below, [root / name for name in classes]))
    for label, (name, found) in enumerate(zip(classes, by_class, strict=True)):
        if not found:
            raise UserError(
                f"class '{name}' in {root} has no images: add some "
                f"({' '.join(EXTENSIONS)}) or remove the folder"
            )
        files += found
        labels += [label] * len(found)
    return FolderSource(str(root), files, np.array(labels, np.int32)), tuple(classes)


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in EXTENSIONS


def _names_in(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files directly in a folder."""
    _, folders, names = next(walk(folder))
    return folders, names


def _images_in(folder: Path) -> list[str]:
    return [name for name in _names_in(folder)[1] if _is_image(name)]


def images_below(folder: Path) -> list[str]:
    """Paths of all images at any depth, sorted, since the order on disk differs by machine."""
    found: list[str] = []
    seen = {*map(str, Path(os.path.realpath(folder)).parents)}  # which hold other classes, too
    for here, folders, names in walk(folder):
        real = os.path.realpath(here)
        if real in seen:  # a link back up: following it would never end
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that if two links lead to a folder, every machine takes the same one.
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [os.path.join(here, name) for name in names if _is_image(name)]
    return sorted(found)


def _missing(root: Path) -> UserError:
    if root.exists():
        return UserError(f"{root} is a file: folder: takes a directory with one folder per class")
    try:
        beside = [path.name for path in root.parent.iterdir()]
    except OSError as error:
        why = f": {error.strerror}" if is_remote(root) else ""
        return UserError(f"there is no folder {root}{why}")
    near = nearest(root.name, beside)
    hint = f"; did you mean {root.parent / near}?" if near else ""
    return UserError(f"there is no folder {root}{hint}")
