"""Weights moved between files, and half-trained runs between frameworks."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from alexnet import hub, metrics, weights, workdir
from alexnet.checkpoints import STATE, Checkpoints, checkpoint_path, read_meta, saved_steps
from alexnet.config import DevicesConfig, Framework, TrainConfig
from alexnet.engine import import_framework
from alexnet.errors import RunError, UserError
from alexnet.layers import Spec
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD
from alexnet.weights import Weights
from alexnet.weights.adapt import adapt, fold_preprocess

FOLDER = "hf-folder"  # what `--to` calls a Hugging Face folder
Arrays = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class RunState:
    """A run at one of its checkpoints, free of any framework."""

    config: TrainConfig
    spec: Spec
    arrays: Arrays  # `params` and, with momentum, `momentum`, by canonical name
    meta: dict[str, Any]  # of the checkpoint: step, evaluations, score
    metrics: list[dict[str, Any]]  # up to the step

    @property
    def step(self) -> int:
        """Completed steps."""
        return self.meta["step"]


def is_run(path: Path) -> bool:
    """True for a run's work directory; a Hugging Face folder has a config.json of its own."""
    return (path / workdir.CONFIG).is_file() and not hub.is_folder(path)


def read_run(path: Path, step: int | None = None) -> RunState:
    """A run at its last checkpoint, or at the one of a step.

    Raises:
        UserError: where there is no run, or no checkpoint of that step.
        RunError: where the checkpoint is damaged.
    """
    config = workdir.read_config(path)
    directory = path / workdir.CHECKPOINTS
    steps = saved_steps(directory) if directory.is_dir() else []
    if not steps:
        raise UserError(f"the run in {path} has no checkpoint yet")
    if step is not None and step not in steps:
        raise UserError(f"{path} has no checkpoint of step {step}: there are {steps}")
    checkpoint = checkpoint_path(directory, steps[-1] if step is None else step)
    try:
        meta = read_meta(checkpoint)
        spec = config.spec(int(meta["num_classes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{checkpoint} can't be read: {error}; --step takes another one of {steps}"
        ) from error
    native = import_framework(config.framework, "checkpoint")
    arrays = native.read_arrays(checkpoint / STATE, spec)
    weights.check(arrays["params"], spec)
    weights.check(arrays["params"] | arrays.get("momentum", {}), spec)
    lines = [line for line in metrics.read(path) if line["step"] <= meta["step"]]
    return RunState(config, spec, arrays, meta, lines)


def write_run(path: Path, state: RunState, framework: Framework) -> None:
    """A work directory from which `framework` can `--resume`, whole or not at all.

    Raises:
        UserError: where something is there already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already, and a run is never overwritten: name a new one")
    native = import_framework(framework, "checkpoint")
    run = dataclasses.replace(state.config.run, workdir=str(path), resume=False, overwrite=False)
    config = dataclasses.replace(
        state.config, framework=framework, run=run, devices=DevicesConfig()
    )
    path.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        path / workdir.CHECKPOINTS,
        run.keep_checkpoints,
        lambda directory, arrays: native.write_arrays(directory, arrays, state.spec),
    )
    meta = {name: value for name, value in state.meta.items() if name != "files"}
    meta["log"] = metrics.write_all(path, state.metrics)
    checkpoints.save(state.step, state.arrays, meta)
    checkpoints.wait()
    workdir.write_config(path, config)  # last: what makes the directory a run


def _step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint's directory."""
    if not checkpoint.name.isdigit():
        raise UserError(f"{checkpoint} is no checkpoint: those are named by their step")
    return int(checkpoint.name)


def run_weights(state: RunState, path: Path) -> Weights:
    """A run's weights, with its preprocessing and, since version 0.3 kept them, class names."""
    names = state.meta.get("class_names")
    usable = isinstance(names, list) and len(names) == state.spec.num_classes
    return Weights(
        dict(state.arrays["params"]),
        state.spec,
        state.config.preprocess,
        class_names=tuple(map(str, names)) if names and usable else None,
        source=f"run {path.name}, step {state.step}",
        preprocess_from="the run's configuration",
    )


def training(state: RunState) -> hub.Training:
    """A run as a model card tells of it."""
    evals = [line for line in state.metrics if line["split"] == "eval"]
    return hub.Training(state.config, state.step, evals[-1] if evals else None)


def _write_run_as(target_format: str | None, source: Path, state: RunState, target: Path) -> str:
    """Write a run for `target_format`, by default the other framework, and say what was done."""
    other = "torch" if state.config.framework == "jax" else "jax"
    framework = cast(Framework, target_format or other)
    write_run(target, state, framework)
    return (
        f"{source} ({state.config.framework}, step {state.step}) -> {target} "
        f"({framework}): weights, momentum, step and history; go on with: "
        f"python train.py --framework {framework} --workdir {target} --resume"
    )


def _refuse_run_options(
    source: Path, step: int | None, target: Path, target_format: str | None
) -> None:
    """Refuse what only a run can be asked for."""
    if step is not None:
        raise UserError(f"--step names a checkpoint of a run, but {source} is no run: omit it")
    if target_format in ("jax", "torch") and not target.suffix:
        raise UserError(
            f"{source} holds weights only, no run: train from them with --init-from {source}"
        )


def _changed(whole: Weights, to_variant: str | None, fold: bool) -> Weights:
    """Weights as another variant, and for torchvision's normalization, where that is wanted."""
    if to_variant:
        whole = adapt(whole, to_variant)
    if fold:
        own = whole.preprocess
        imagenet = dataclasses.replace(own.normalize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        whole = fold_preprocess(whole, dataclasses.replace(own, normalize=imagenet))
    return whole


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    step: int | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    to_variant: str | None = None,
    fold: bool = False,
    overwrite: bool = False,
) -> tuple[Weights, str]:
    """Convert, and say in words what was done.

    Args:
        source: a weights file, a Hugging Face folder, a run's work directory, or one of its
            checkpoints.
        target: a weights file, for `hf-folder` a directory, or, for a run, a new work directory.
        source_format: of `weights.FORMATS`; told from the content by default.
        target_format: the same, hf-folder, or jax or torch for a run; told from the name by
            default.
        step: of the run's checkpoint; the last by default.
        variant, image_size: the network, for source files that leave it open.
        to_variant: the variant to become, where that is exact.
        fold: take mean and scale into conv1, for inputs prepared as torchvision does, where that
            is exact.
        overwrite: replace a Hugging Face folder's files that are there already.

    Raises:
        UserError: for what can't be read, or not be converted exactly.
    """
    if source.parent.name == workdir.CHECKPOINTS and is_run(source.parent.parent):
        source, step = source.parent.parent, _step_of(source)
    run = None
    if hub.is_folder(source):
        _refuse_run_options(source, step, target, target_format)
        whole = hub.read_folder(source, variant=variant, image_size=image_size)
    elif is_run(source):
        state = read_run(source, step)
        whole, run = run_weights(state, source), training(state)
        if target_format in ("jax", "torch") or (target_format is None and not target.suffix):
            return whole, _write_run_as(target_format, source, state, target)
    elif source.is_dir():
        raise UserError(
            f"{source} is a directory, but neither a run's work directory (no config.json) nor a "
            "Hugging Face folder (no model.safetensors)"
        )
    else:
        _refuse_run_options(source, step, target, target_format)
        whole = weights.load(source, source_format, variant=variant, image_size=image_size)
    whole = _changed(whole, to_variant, fold)
    if target_format == FOLDER:
        hub.write_folder(target, whole, run=run, overwrite=overwrite)
    else:
        weights.save(target, whole, target_format)
    return whole, (
        f"{whole.source or source} -> {target}: variant '{whole.spec.name}', "
        f"{whole.spec.num_classes} classes, {whole.spec.num_params:,} parameters"
    )
