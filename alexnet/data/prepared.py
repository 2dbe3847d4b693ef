"""Metadata of prepared TFDS data sets, checked before tfds reads it.

`features.json` names the Python class of each feature. If tfds doesn't know a class, it imports
its module, possibly from the working directory. A data set may come from anyone, so only tfds's
own classes are accepted here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.errors import UserError
from alexnet.files import open_file, read_all

FEATURES, INFO = "features.json", "dataset_info.json"
MAX_BYTES = 64 << 20  # for each metadata file; ImageNet's have a few kilobytes
_PACKAGE = "tensorflow_datasets.core.features."
_CLASSES = {
    _PACKAGE + name
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
}
_CLASS_KEYS = ("pythonClassName", "python_class_name")  # tfds takes both
# From formats before tfds 4.5, which wrote no files that can be read in random order: `json` would
# hold more features as text.
_OLD_KEYS = ("type", "json")


def check_metadata(folder: Path) -> None:
    """Check the metadata in a prepared data set's folder.

    Raises:
        UserError: for features of another package, and files that are missing, malformed, too
            large or not regular.
    """
    _read_object(folder / INFO)
    path = folder / FEATURES
    for key, text in _texts(_read_object(path)):
        if key in _CLASS_KEYS and text not in _CLASSES:
            raise UserError(
                f"{path} names the class {text!r:.100}, which is none of tensorflow_datasets' own "
                "features: it is not loaded, since a data set from elsewhere could run code by it"
            )
        if key in _OLD_KEYS:
            raise UserError(
                f"{path} is in the form of an old tensorflow_datasets: prepare the data set again"
            )
    for other in folder.iterdir():
        if other.name.endswith(".labels.txt"):
            with open_file(other, MAX_BYTES):
                pass
        elif other.exists() and not (other.is_file() or other.is_dir()):  # for example, a pipe
            raise UserError(f"can't read {other}: it is not a regular file")


def _read_object(path: Path) -> dict[str, Any]:
    with open_file(path, MAX_BYTES) as file:
        data = bytes(read_all(file))
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is malformed: it holds no JSON object")
    return found


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each string in nested objects, with its key."""
    todo = [value]
    while todo:
        one = todo.pop()
        todo += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if isinstance(one, dict):
            yield from ((key, text) for key, text in one.items() if isinstance(text, str))
