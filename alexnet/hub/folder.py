"""A Hugging Face folder: `config.json`, `model.safetensors` and a model card, written and read."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from alexnet.errors import UserError
from alexnet.files import (
    MAX_READ,
    atomic_write,
    is_remote,
    open_file,
    sync,
    write_json,
)
from alexnet.hub import config
from alexnet.hub.card import Training, model_card
from alexnet.layers import Spec
from alexnet.staging import staging, take_place
from alexnet.weights import Weights, check, torch_safetensors
from alexnet.weights.assemble import complete
from alexnet.weights.names import TORCHVISION_KEYS, torch_keys
from alexnet.weights.precision import Dtype, check_range

CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"
FILES = (MODEL, CARD, CONFIG)  # in the order they are put in place: the last one completes it
MAX_CONFIG = 32 << 20  # bytes; a thousand class names take thirty thousand
Keys = Literal["torch", "torchvision"]


def is_folder(path: Path) -> bool:
    """True for a directory with a `model.safetensors`; a run has no file of that name."""
    return (path / MODEL).is_file()


def write_folder(
    directory: Path,
    weights: Weights,
    *,
    keys: Keys | None = None,
    run: Training | None = None,
    overwrite: bool = False,
    dtype: Dtype = "fp32",
) -> None:
    """Write a folder, whole or not at all; other files in it stay as they are.

    Args:
        directory: the folder; created if missing.
        weights: the weights to share.
        keys: in `model.safetensors`; by default torchvision's for the variant `torchvision`, and
            this project's otherwise.
        run: the training that the weights come from, for the model card.
        overwrite: replace any of the three files that exist.
        dtype: of the numbers in `model.safetensors`.

    Raises:
        UserError: where files are in the way, or these weights can't be described.
        RunError: where the disk refuses them.
    """
    if is_remote(directory):
        raise UserError(f"{directory}: a Hugging Face folder is written to a local directory")
    check(weights.arrays, weights.spec)
    check_range(weights.arrays, dtype)
    scheme = _scheme(keys, weights.spec)
    directory = Path(os.path.realpath(directory))
    _check_free(directory, overwrite)
    with staging(directory) as built:
        with atomic_write(built / MODEL) as file:
            torch_safetensors.write(file, weights, scheme, dtype)
        with open(built / MODEL, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        write_json(built / CONFIG, config.to_json(weights, scheme, digest))
        with atomic_write(built / CARD) as file:
            file.write(model_card(weights, run, torchvision=scheme is TORCHVISION_KEYS).encode())
        _place(built, directory, overwrite)


def read_folder(
    path: Path, *, variant: str | None = None, image_size: int | None = None
) -> Weights:
    """The weights in a folder from `write_folder`, or from another program in timm's format.

    Args:
        path: the folder.
        variant: the network, for a folder that leaves it open.
        image_size: height and width of the input, likewise.

    Raises:
        UserError: for files that are missing, damaged, too large or inconsistent.
    """
    described = _read_config(path / CONFIG)
    with open_file(path / MODEL, MAX_READ) as file:
        if described.spec is None:
            variant = variant or described.variant
            image_size = image_size or described.image_size
        elif hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != described.sha256:
            raise UserError(
                f"{path / MODEL} is not the file that {CONFIG} describes, or is damaged: its "
                "SHA-256 is another one; get both anew"
            )
        file.seek(0)
        try:
            found = dataclasses.replace(
                torch_safetensors.read(file, described.spec),
                spec=described.spec,
                preprocess=described.preprocess,
                mean_image=described.mean_image,
            )
            source = described.source or f"{path.name} (Hugging Face folder)"
            weights = complete(found, source, variant, image_size)
        except (UserError, ValueError, LookupError, MemoryError) as error:
            raise UserError(f"{path / MODEL} can't be read: {error}") from error
    return _finished(weights, described, path / CONFIG)


def _finished(weights: Weights, described: config.Described, where: Path) -> Weights:
    """Weights completed from `config.json`, which must fit them."""
    spec = weights.spec
    if described.num_classes not in (None, spec.num_classes):
        raise UserError(
            f"{where} says {described.num_classes} classes, but {MODEL} has {spec.num_classes}"
        )
    names = described.class_names
    if names is not None and len(names) != spec.num_classes:
        raise UserError(f"{where} names {len(names)} classes, but {MODEL} has {spec.num_classes}")
    weights = dataclasses.replace(weights, class_names=names)
    if described.spec is not None:
        return weights
    try:
        preprocess = config.timm_preprocess(described, spec)
        return dataclasses.replace(
            weights, preprocess=preprocess, preprocess_from="the folder's pretrained_cfg"
        )
    except UserError as error:
        raise UserError(f"{where} can't be used: {error}") from error


def _read_config(path: Path) -> config.Described:
    with open_file(path, MAX_CONFIG) as file:
        try:
            values: Any = json.loads(file.read(MAX_CONFIG + 1))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {str(error)[:200]}") from error
    try:
        return config.from_json(values)
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error


def _scheme(keys: Keys | None, spec: Spec) -> Mapping[str, str]:
    """Canonical name to key in `model.safetensors`."""
    if keys == "torchvision" and spec.name != "torchvision":
        raise UserError(
            f"torchvision's keys are for variant 'torchvision', and these weights are '{spec.name}'"
        )
    own = keys == "torch" or spec.name != "torchvision"
    return torch_keys(spec) if own else TORCHVISION_KEYS


def _check_free(directory: Path, overwrite: bool) -> None:
    """Refuse to replace a directory's files, except a folder's own with `overwrite`."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: name a directory")
    there = [name for name in FILES if os.path.lexists(directory / name)]
    if there and not overwrite:
        raise UserError(
            f"{directory} has {' and '.join(there)} already: name a new directory, or add "
            "--overwrite to replace what is there"
        )
    if CONFIG in there and not is_folder(directory):
        raise UserError(f"{directory} has a {CONFIG} but no {MODEL}, so it is something else, "
                        "such as a run: name a new directory")  # fmt: skip
    if blocked := [name for name in there if (directory / name).is_dir()]:
        raise UserError(f"{directory / blocked[0]} is a directory: remove it, or name another one")


def _place(built: Path, directory: Path, overwrite: bool) -> None:
    """Move the complete files into place."""
    empty = not directory.exists() or not any(directory.iterdir())
    if empty and take_place(built, directory):
        return
    _check_free(directory, overwrite)  # again: another process may have been faster
    sync(built)
    (directory / CONFIG).unlink(missing_ok=True)  # a half-replaced folder must not count as one
    for name in FILES:
        os.replace(built / name, directory / name)
    sync(directory)
