"""Conversion of weights between file formats, and of unfinished runs between frameworks."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np

from alexnet import hub, metrics, weights, workdir
from alexnet.checkpoints import (
    STATE,
    Checkpoints,
    best_step,
    checkpoint_path,
    read_meta,
    saved_steps,
)
from alexnet.config import DevicesConfig, Framework, TrainConfig
from alexnet.engine import import_framework
from alexnet.errors import RunError, UserError
from alexnet.files import check_target, is_remote
from alexnet.layers import Spec
from alexnet.preparation import PreparationConfig, prepared, said
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD
from alexnet.replacing import check_replaceable, holds_run
from alexnet.spec import VARIANTS
from alexnet.staging import staging, take_place
from alexnet.weights import Weights
from alexnet.weights.adapt import adapt, fold_preprocess
from alexnet.weights.assemble import usable_names
from alexnet.weights.formats import agreeing, from_suffix
from alexnet.weights.precision import Dtype, check_finite

FOLDER = "hf-folder"  # the value of `--to` for a Hugging Face folder
_LISTED = 20  # steps that an error lists
Arrays = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class RunState:
    """A run at one of its checkpoints, independent of any framework."""

    config: TrainConfig
    spec: Spec
    arrays: Arrays  # `params` and, with momentum, `momentum`, by canonical name
    meta: dict[str, Any]  # the checkpoint's: step, evaluations, score
    metrics: list[dict[str, Any]]  # up to the step

    @property
    def step(self) -> int:
        """Completed steps."""
        return self.meta["step"]


def is_run(path: Path) -> bool:
    """True for a run's work directory; a Hugging Face folder has a config.json of its own."""
    return (path / workdir.CONFIG).is_file() and not hub.is_folder(path)


def run_config(path: Path) -> TrainConfig:
    """The configuration of a run; any directory with a `config.json` may look like one.

    Raises:
        UserError: if it is not a run's.
    """
    try:
        return workdir.read_config(path)
    except UserError as error:
        raise UserError(f"{path} is no run that can be read: {error}") from error


def read_run(path: Path, step: int | None = None, *, with_log: bool = True) -> RunState:
    """Read a run at its last checkpoint, or at a given step's.

    Raises:
        UserError: if there is no run, or no checkpoint of that step, or the log is damaged.
        RunError: if the checkpoint is damaged.
    """
    config = run_config(path)
    directory = path / workdir.CHECKPOINTS
    steps = saved_steps(directory) if directory.is_dir() else []
    if not steps:
        raise UserError(f"the run in {path} has no checkpoint yet")
    if step is not None and step not in steps:
        raise UserError(f"{path} has no checkpoint of step {step}: there are {steps}")
    checkpoint = checkpoint_path(directory, steps[-1] if step is None else step)
    native = import_framework(config.framework, "checkpoint")
    try:
        meta = read_meta(checkpoint)
        spec = config.spec(meta["num_classes"])
        arrays = native.read_arrays(checkpoint / STATE, spec)
        weights.check(arrays["params"], spec)
        weights.check(arrays["params"] | arrays.get("momentum", {}), spec)
    except MemoryError:
        raise
    except Exception as error:  # on a damaged state, the frameworks raise nearly anything
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        others = [str(other) for other in steps if checkpoint_path(directory, other) != checkpoint]
        way_out = (
            f"--step takes another one of {', '.join(others[-_LISTED:])}"
            if others
            else "there is no other checkpoint"
        )
        raise RunError(f"{checkpoint} can't be read: {reason}; {way_out}") from error
    lines = metrics.read(path) if with_log else []
    return RunState(
        config, spec, arrays, meta, [line for line in lines if line["step"] <= meta["step"]]
    )


def write_run(path: Path, state: RunState, framework: Framework) -> None:
    """Write a work directory from which `framework` can `--resume`, whole or not at all.

    Raises:
        UserError: if something is there already.
        RunError: if it can't be written to the disk.
    """
    workdir.check_name(path)
    for folder in () if is_remote(path) else Path(os.path.realpath(path)).parents:
        if holds_run(folder):
            raise UserError(f"{path} is inside the run in {folder}: name a directory of its own")
    there = UserError(f"{path} is there already, and a run is never overwritten: name a new one")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise there
    if is_remote(path):  # nothing can be renamed there
        _fill_run(path, path, state, framework)
        return
    target = Path(os.path.realpath(path))
    with staging(target) as directory:
        _fill_run(directory, path, state, framework)
        if not take_place(directory, target):
            raise there  # something appeared meanwhile


def _fill_run(directory: Path, path: Path, state: RunState, framework: Framework) -> None:
    """Write all files of a run that will be at `path`."""
    native = import_framework(framework, "checkpoint")
    run = dataclasses.replace(state.config.run, workdir=str(path), resume=False, overwrite=False)
    config = dataclasses.replace(
        state.config, framework=framework, run=run, devices=DevicesConfig()
    )
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        directory / workdir.CHECKPOINTS,
        run.keep_checkpoints,
        lambda place, arrays: native.write_arrays(place, arrays, state.spec),
    )
    meta = {name: value for name, value in state.meta.items() if name != "files"}
    meta["log"] = metrics.write_all(directory, state.metrics)
    checkpoints.save(state.step, state.arrays, meta)
    checkpoints.wait()
    workdir.write_config(directory, config)  # last: it makes the directory a run


def _step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint's directory."""
    if not checkpoint.name.isdigit():
        raise UserError(f"{checkpoint} is no checkpoint: those are named by their step")
    return int(checkpoint.name)


def run_weights(state: RunState, path: Path) -> Weights:
    """A run's weights, with its preprocessing and, since version 0.3 stores them, class names."""
    names = state.meta.get("class_names")
    own, notes = usable_names(list(map(str, names)) if isinstance(names, list) else (), state.spec)
    return Weights(
        dict(state.arrays["params"]),
        state.spec,
        state.config.preprocess,
        class_names=own,
        source=f"run {path.absolute().name}, step {state.step}",
        preprocess_from="the run's configuration",
        notes=notes,
    )


def training(state: RunState) -> hub.Training:
    """A run's training as described in a model card."""
    evals = [line for line in state.metrics if line["split"] == "eval" and _is_measured(line)]
    return hub.Training(state.config, state.step, evals[-1] if evals else None)


def _is_measured(record: Mapping[str, Any]) -> bool:
    """Return True if a record of metrics has the numbers for a model card."""
    numbers = [record.get("count", 0), *(record.get(name) for name in ("top1", "top5", "loss"))]
    return all(type(n) in (int, float) and abs(n) < 1e100 for n in numbers)  # nor NaN


def _write_run_as(
    target_format: str | None, source: str | PurePath, state: RunState, target: Path
) -> str:
    """Write a run for `target_format`, by default the other framework; return a summary."""
    other = "torch" if state.config.framework == "jax" else "jax"
    framework = cast(Framework, target_format or other)
    write_run(target, state, framework)
    return (
        f"{source} ({state.config.framework}, step {state.step}) -> {target} "
        f"({framework}): weights, momentum, step and history; go on with: "
        f"python train.py --framework {framework} --workdir {target} --resume"
    )


def _left_behind(source: Path, state: RunState) -> list[str]:
    """A sentence about the run's other checkpoints, one of which may be its best."""
    inside = source.parent.name == workdir.CHECKPOINTS
    folder = source.parent if inside else source / workdir.CHECKPOINTS
    others = [step for step in saved_steps(folder) if step != state.step]
    if not others:
        return []
    best = best_step(folder)
    words = f" (step {best} has the best evaluation)" if best in others else ""
    return [
        f"only step {state.step} was moved: {', '.join(map(str, others[-_LISTED:]))} stay in "
        f"{folder.parent}{words}; --step moves another one, to a directory of its own"
    ]


def no_weights(path: Path) -> UserError:
    """The error for a directory of no kind that holds weights."""
    return UserError(
        f"{path} is a directory, but neither a run's work directory (no config.json) nor a "
        "Hugging Face folder (no model.safetensors)"
    )


def _read(
    source: str | PurePath,
    format: str | None,
    step: int | None,
    variant: str | None,
    image_size: int | None,
) -> tuple[Weights, RunState | None]:
    """The weights of a source, and the run that they come from, if any.

    Raises:
        UserError: for a source that can't be read, and options that don't apply to its kind.
    """
    path = hub.local(source)
    if path.parent.name == workdir.CHECKPOINTS and is_run(path.parent.parent):
        path, step = path.parent.parent, _step_of(path)
    run, folder = is_run(path), hub.is_folder(path)
    if step is not None and not run:
        raise UserError(f"--step names a checkpoint of a run, but {source} is no run: omit it")
    if format is not None and (run or folder):
        raise UserError(f"--from is for files, and {source} is a directory: omit it")
    if run:
        state = read_run(path, step)
        return agreeing(run_weights(state, path), variant, image_size), state
    if folder:
        return hub.read_folder(path, variant=variant, image_size=image_size), None
    if path.is_dir():
        raise no_weights(path)
    return weights.load(path, format, variant=variant, image_size=image_size), None


def _changed(whole: Weights, to_variant: str | None, fold: bool) -> Weights:
    """Weights as another variant, and for torchvision's normalization, if requested."""
    if to_variant:
        whole = adapt(whole, to_variant)
    if fold:
        own = whole.preprocess
        imagenet = dataclasses.replace(
            own.normalize, mean=IMAGENET_MEAN, std=IMAGENET_STD, image=b""
        )
        whole = fold_preprocess(whole, dataclasses.replace(own, normalize=imagenet))
        whole = dataclasses.replace(whole, preprocess_from="as --fold made it")
    return whole


@dataclass(frozen=True)
class Change:
    """Changes that a conversion makes to weights."""

    variant: str | None = None  # the one to convert to, if exact
    fold: bool = False  # fold mean and scale into conv1, for torchvision's input, if exact
    preparation: PreparationConfig | None = None  # preprocessing that replaces the weights' own
    dtype: Dtype = "fp32"  # of the numbers in the file


def convert(
    source: str | PurePath,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    step: int | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    change: Change = Change(),
    overwrite: bool = False,
) -> tuple[Weights, list[str]]:
    """Convert weights or a run, and describe what was done.

    Args:
        source: a weights file, a Hugging Face folder, hf://ORG/NAME@REVISION, a run's work
            directory, or one of its checkpoints.
        target: a weights file, for `hf-folder` a directory, or, for a run, a new work directory.
        source_format: one of `weights.FORMATS`; by default detected from the content.
        target_format: the same, hf-folder, or jax or torch for a run; by default inferred from the
            name.
        step: step of the run's checkpoint; by default the last.
        variant, image_size: the network, for source files that don't say.
        change: changes to make in the conversion.
        overwrite: replace files that are already in a Hugging Face folder.

    Returns:
        The weights, not rounded yet, and sentences: first what was done, then notes.

    Raises:
        UserError: for anything that can't be read, or can't be converted exactly.
    """
    if target.suffix and target_format not in (FOLDER, "jax", "torch"):
        check_target(target)
    whole, state = _read(source, source_format, step, variant, image_size)
    if target_format in ("jax", "torch") and not target.suffix and state is None:
        raise UserError(
            f"{source} holds weights only, no run: train from them with --init-from {source}"
        )
    moved = target_format in ("jax", "torch") or (target_format is None and not target.suffix)
    if state and moved:
        _refuse_changes(change, target)
        _check_finite(state.arrays, source)
        done = _write_run_as(target_format, source, state, target)
        return whole, [done, *_left_behind(hub.local(source), state)]
    if change.preparation:
        whole = prepared(whole, change.preparation)
    whole = _changed(whole, change.variant, change.fold)
    _check_finite({"weights": whole.arrays}, source if state else None)
    format = target_format or from_suffix(target, whole)
    notes = _notes(source, whole, format, change)
    if format == FOLDER:
        run = training(state) if state else None
        hub.write_folder(target, whole, run=run, overwrite=overwrite, dtype=change.dtype)
    else:
        check_replaceable(target, source)
        weights.save(target, whole, format, change.dtype)
    return whole, [
        f"{source} -> {target}: variant '{whole.spec.name}', "
        f"{whole.spec.num_classes} classes, {whole.spec.num_params:,} parameters",
        *notes,
    ]


def _notes(source: str | PurePath, whole: Weights, format: str, change: Change) -> list[str]:
    """Sentences about what is converted, and what the target can't hold.

    Raises:
        UserError: if an option would have no effect.
    """
    names = f"{len(whole.class_names)}, from the source" if whole.class_names else "none"
    notes = [said(whole), f"class names: {names}", *whole.notes]
    if not whole.source.startswith(f"{PurePath(source).name} ("):  # more than the file and format
        notes.insert(0, f"origin: {whole.source}")
    if change.dtype != "fp32":
        notes.append(f"the target's numbers are rounded to {change.dtype}")
    if format in (*weights.DESCRIBING, FOLDER):
        return notes
    if change.preparation and not change.fold:
        raise UserError(
            f"{', '.join(change.preparation.given)} would have no effect: {format} files hold no "
            "preprocessing; leave that out, or write safetensors, onnx or hf-folder"
        )
    spec = whole.spec  # for a network that takes any image size, the arrays don't show which
    own = spec.name in VARIANTS and VARIANTS[spec.name].image_size == spec.image_size
    size = "" if own else f" --image-size {spec.image_size}"
    return [
        *notes,
        f"{format} files hold neither preprocessing nor class names: keep the source, and use "
        f"the file with --preprocess-from {source}{size}",
    ]


def _check_finite(arrays: Arrays, run: str | PurePath | None) -> None:
    """Refuse a run's or a file's arrays with numbers that are not finite."""
    way_out = (
        f"the network diverged; --step takes an earlier checkpoint of {run}"
        if run
        else "the network diverged, or the file is damaged: get it anew"
    )
    for part, own in arrays.items():
        named = own if part != "momentum" else {f"the momentum of {n}": a for n, a in own.items()}
        check_finite(named, way_out)


def _refuse_changes(change: Change, target: Path) -> None:
    """Refuse options for weights when a whole run is converted."""
    if change != Change():
        raise UserError(
            f"{target} is to be a run, which keeps its preprocessing, variant and fp32: "
            "convert to a file to change them"
        )
