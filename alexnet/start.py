"""The weights that a run starts from: random ones, or those of `--init-from`."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from alexnet.checkpoints import saved_steps
from alexnet.config import TrainConfig
from alexnet.errors import UserError
from alexnet.files import as_path
from alexnet.init import initial_weights
from alexnet.layers import Spec
from alexnet.preprocess import describe
from alexnet.text import printable, storable
from alexnet.weights import Weights
from alexnet.workdir import CHECKPOINTS

Arrays = dict[str, np.ndarray]


def starting_weights(
    config: TrainConfig, spec: Spec, classes: Sequence[str] = ()
) -> tuple[Arrays, list[str]]:
    """Initial weights, or those of `--init-from`, with sentences on what was done.

    `--init-from` takes any source of `open_weights`. A run that resumes from a checkpoint does not
    read it; one that was killed before its first checkpoint starts from it again. A last layer for
    another number of classes is initialized anew; everything else must fit.

    Args:
        config: the run's configuration.
        spec: its network.
        classes: names of the data's classes.

    Raises:
        UserError: for a file that is not this network's.
    """
    fresh = initial_weights(spec, config.run.seed)
    if config.model.init_from is None or _has_checkpoint(config):
        return fresh, []
    from alexnet.trained import open_alike  # imports all readers, which other runs don't need

    path, loaded = config.model.init_from, open_alike(config.model.init_from, spec)
    if loaded.spec.name != spec.name:
        raise UserError(
            f"--init-from {path} holds variant '{loaded.spec.name}', not '{spec.name}': "
            f"add --variant {loaded.spec.name}"
        )
    found, last = loaded.arrays, list(fresh)[-1].split(".")[0]
    differ = [n for n in fresh if fresh[n].shape != found[n].shape]
    if bad := [n for n in differ if not n.startswith(last)]:
        shapes = ", ".join(f"{n} {found[n].shape} instead of {fresh[n].shape}" for n in bad)
        raise UserError(f"--init-from {path} has other sizes: {shapes}; see --image-size, --width")
    notes = [*_preprocessing_notes(config, loaded), *loaded.notes]
    if differ:
        note = (
            f"weights from {path}, but {last} is initialized anew: the file has "
            f"{loaded.spec.num_classes} classes, the data {spec.num_classes}"
        )
        return {n: fresh[n] if n.startswith(last) else found[n] for n in fresh}, [note, *notes]
    arrays, of_classes = _by_class(found, last, loaded.class_names or (), classes)
    return arrays, [f"weights from {path}", *of_classes, *notes]


def _has_checkpoint(config: TrainConfig) -> bool:
    """Return True if a run is being resumed that has saved its state."""
    folder = as_path(config.run.workdir or "") / CHECKPOINTS
    return config.run.resume and folder.is_dir() and bool(saved_steps(folder))


def _by_class(
    arrays: Arrays, last: str, theirs: Sequence[str], own: Sequence[str]
) -> tuple[Arrays, list[str]]:
    """Reorder the last layer's outputs to match the data's classes, if their names are known."""
    from alexnet.names import named

    if not theirs or not own:
        return arrays, []
    theirs = named(theirs, "").identities
    own = named([storable(name) for name in own], "").identities  # as stored with weights
    if theirs == own:
        return arrays, []
    if set(theirs) == set(own) and len(set(own)) == len(own):
        place = {name: index for index, name in enumerate(theirs)}
        places = [place[name] for name in own]
        moved = {n: a[..., places] if n.startswith(last) else a for n, a in arrays.items()}
        return moved, [f"the outputs of {last} are put in the order of the data's classes"]
    first = next(i for i, (a, b) in enumerate(zip(theirs, own, strict=True)) if a != b)
    return arrays, [
        f"warning: the weights' classes have other names than the data's (class {first} is "
        f"{printable(theirs[first]):.60} there and {printable(own[first]):.60} here): {last} is "
        "kept, class by number"
    ]


def _preprocessing_notes(config: TrainConfig, loaded: Weights) -> list[str]:
    """A sentence if a run's preprocessing is that of its weights, a warning if it is not."""
    own, theirs = config.preprocess, loaded.preprocess
    same_geometry = own.protocol.resize_rule == theirs.protocol.resize_rule
    if own.normalize == theirs.normalize and same_geometry:
        return [f"preprocessing: {describe(own)}, as the weights' ({loaded.preprocess_from})"]
    return [
        f"warning: these weights take {describe(theirs)} ({loaded.preprocess_from}), but this run "
        f"has {describe(own)}, as its options say"
    ]


def with_preprocessing_of(
    config: TrainConfig, source: str, given: Collection[str] = ()
) -> TrainConfig:
    """The configuration with the preprocessing that the initial weights were trained for.

    Args:
        config: the configuration of a run that starts from them.
        source: any source of `open_weights`.
        given: names of fields to leave unchanged.

    Raises:
        UserError: if there are no weights to read.
    """
    from alexnet.trained import open_alike

    loaded = open_alike(source, config.spec(1000))
    normalize, protocol = loaded.preprocess.normalize, loaded.preprocess.protocol
    found: dict[str, Any] = {"resize_rule": protocol.resize_rule}
    if protocol.crop == config.image_size:
        found["resize_to"] = protocol.resize_to
    if normalize.channel_order == config.preprocess.normalize.channel_order:
        found |= {"mean": normalize.mean, "std": normalize.std}
        if normalize.image and {"mean", "mean_image"}.isdisjoint(given):
            if protocol.crop == config.image_size:
                found["mean_image"] = source
            elif "preprocess_from" in given:
                raise UserError(
                    f"--preprocess-from {source} subtracts a mean image of {protocol.crop} pixels, "
                    f"and this network takes {config.image_size}: give --mean-image or --mean"
                )
    new = {name: value for name, value in found.items() if name not in given}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **new))
