"""A training run from its configuration to its last line."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from alexnet import weights, workdir
from alexnet.checkpoints import Checkpoints
from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset
from alexnet.engine import Engine, load_engine
from alexnet.errors import UserError
from alexnet.files import as_path
from alexnet.init import initial_weights
from alexnet.layers import Spec, variables
from alexnet.loop import Plan, Trainer
from alexnet.preprocess import describe
from alexnet.processes import Processes, check_alike, connect, listed, part_with, together
from alexnet.report.curves import draw_curves
from alexnet.report.progress import Progress, summary
from alexnet.text import counted, printable


def train(config: TrainConfig) -> int:
    """Train, leaving everything in the work directory.

    The exit code is 0, or 128 + a signal's number after a stop that saved.

    Raises:
        UserError: for a mistake in the configuration or the data.
        RunError: where training can't go on.
    """
    processes = connect(
        config.framework, config.devices
    )  # before anything else touches the framework
    return part_with(processes, lambda: _train(config, processes))


def _train(config: TrainConfig, processes: Processes) -> int:
    config = _with_workdir(config, processes)
    options = dataclasses.asdict(config)
    options["devices"]["process"] = None
    check_alike(processes, "options", options)
    engine_class = load_engine(config.framework)
    dataset = together(processes, config.open_dataset)
    check_alike(processes, "data", (dataset.name, len(dataset.train), dataset.class_names))
    spec, plan = config.spec(dataset.num_classes), Plan.of(config, dataset)
    arrays, notes = together(processes, lambda: starting_weights(config, spec))
    engine = training_engine(engine_class, config, spec, arrays)
    del arrays  # a quarter of a gigabyte
    together(processes, lambda: None if processes.index else workdir.prepare(config))
    path = as_path(config.run.workdir or "")  # `_with_workdir` named one
    _check_shared(path, processes)
    with Progress(
        plan.total_steps, plan.steps_per_epoch, dataset.num_classes, processes.index
    ) as progress:
        if processes.index == 0:
            for note in (*_headline(config, dataset, spec, plan), engine.describe(), *notes):
                progress.note(note)
        if processes.count > 1:
            print(processes.describe(), flush=True)
        checkpoints = Checkpoints(
            path / workdir.CHECKPOINTS, config.run.keep_checkpoints, engine.write, processes
        )
        trainer = Trainer(
            config, dataset, engine, checkpoints, progress, plan, variables(spec), processes
        )
        if config.run.resume:
            _resume(trainer)
            progress.begin_at(trainer.step)
        code = trainer.run() if processes.index else _run_logged(trainer, path)
    if code:
        if processes.index == 0:
            here = printable(str(path))
            print(f"stopped at step {trainer.step}; --resume --workdir {here} goes on from there")
        return code
    arrays, source = engine.weights(), f"run {path.name}"
    if processes.index == 0:
        saved = weights.Weights(arrays, spec, config.preprocess, dataset.class_names, source)
        weights.save(path / workdir.WEIGHTS, saved)
        print(f"weights, metrics and {workdir.CURVE} are in {printable(str(path))}")
        print(summary(trainer.evals[-1], dataset.num_classes))
    return 0


def training_engine(
    engine_class: type[Engine], config: TrainConfig, spec: Spec, arrays: Mapping[str, np.ndarray]
) -> Engine:
    """The engine of a training run.

    Raises:
        UserError: where the devices can't share the batch, or a group matches nothing.
    """
    return engine_class(
        spec,
        arrays,
        preprocess=config.preprocess,
        batch_size=config.data.batch_size,
        precision=config.model.precision,
        devices=config.devices,
        seed=config.run.seed,
        optim=config.optim,
    )


def _run_logged(trainer: Trainer, path: Path) -> int:
    """The loop in process 0, which keeps the log and draws the curves."""
    trainer.log = workdir.MetricsLog(path, trainer.step)
    try:
        return trainer.run()
    finally:
        trainer.log.close()
        if records := workdir.read_metrics(path):
            config = trainer.config
            title = f"AlexNet '{config.model.variant}' on {config.data.dataset}, {config.framework}"
            draw_curves(records, path / workdir.CURVE, title, config.optim.label_smoothing)


def starting_weights(config: TrainConfig, spec: Spec) -> tuple[dict[str, np.ndarray], list[str]]:
    """Initial weights, or those of `--init-from`, with sentences on what was done.

    Those are from wherever `open_weights` finds them. A last layer for another number of classes is
    initialized anew; all else must fit.

    Raises:
        UserError: for a file that is not this network's.
    """
    fresh = initial_weights(spec, config.run.seed)
    if config.model.init_from is None or config.run.resume:
        return fresh, []
    from alexnet.trained import open_weights  # with all readers, which other runs don't load

    path = config.model.init_from
    try:
        loaded = open_weights(path)
    except UserError:  # some files leave the network open: perhaps it is this one
        loaded = open_weights(path, variant=spec.name, image_size=spec.image_size)
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
    notes = _preprocessing_notes(config, loaded)
    if not differ:
        return found, [f"weights from {path}", *notes]
    note = (
        f"weights from {path}, but {last} is initialized anew: the file has "
        f"{loaded.spec.num_classes} classes, the data {spec.num_classes}"
    )
    return {n: fresh[n] if n.startswith(last) else found[n] for n in fresh}, [note, *notes]


def _preprocessing_notes(config: TrainConfig, loaded: weights.Weights) -> list[str]:
    """A warning where a run prepares its input in another way than the weights were trained for."""
    own, theirs = config.preprocess, loaded.preprocess
    same_geometry = own.protocol.resize_rule == theirs.protocol.resize_rule
    if own.normalize == theirs.normalize and same_geometry:
        return []
    numbers = " ".join(
        f"--{name} " + " ".join(f"{x:.6g}" for x in getattr(theirs.normalize, name))
        for name in ("mean", "std")
    )
    return [
        f"warning: these weights take {describe(theirs)} ({loaded.preprocess_from}), but this run "
        f"has {describe(own)}: their input is prepared by {numbers} --resize-rule "
        f"{theirs.protocol.resize_rule}"
    ]


def _check_shared(path: Path, processes: Processes) -> None:
    """Refuse a work directory that is another one on each host."""
    sees = processes.gather([(path / workdir.CONFIG).is_file()])[:, 0]
    if blind := listed(sees == 0):
        raise UserError(
            f"process {blind} does not see process 0's --workdir {path}: give a directory that all "
            "hosts share"
        )


def _with_workdir(config: TrainConfig, processes: Processes) -> TrainConfig:
    """The configuration with a work directory of its own, if it names none."""
    if config.run.workdir is not None:
        return config
    if processes.count > 1:
        raise UserError("several processes need --workdir: a directory that all of them share")
    if config.run.resume:
        raise UserError("--resume needs --workdir: the directory of the run to go on with")
    name = f"{config.recipe}-{config.framework}-{datetime.now():%Y%m%d-%H%M%S}"
    run = dataclasses.replace(config.run, workdir=str(Path("runs") / name))
    return dataclasses.replace(config, run=run)


def _headline(config: TrainConfig, dataset: Dataset, spec: Spec, plan: Plan) -> list[str]:
    return [
        f"recipe {config.recipe}: variant {spec.name}, {spec.num_params:,} parameters, "
        f"{spec.image_size}x{spec.image_size} input, {config.model.precision}",
        f"data {dataset.name}: {len(dataset.train):,} training and "
        f"{counted(len(dataset.eval), 'test example')}, {counted(spec.num_classes, 'class')}",
        f"{counted(plan.total_steps, 'step')} of {config.data.batch_size}, seed {config.run.seed}, "
        f"into {config.run.workdir}",
        *_warnings(config, spec, plan),
    ]


def _warnings(config: TrainConfig, spec: Spec, plan: Plan) -> list[str]:
    """Sentences on what is no mistake, but hardly meant."""
    found, warm_up = [], config.optim.warmup_steps
    if spec.num_classes == 1:
        found.append("warning: the data has one class, so there is nothing to tell apart")
    if warm_up >= plan.total_steps:
        found.append(
            f"warning: --warmup-steps is {warm_up:,}, but the run has "
            f"{counted(plan.total_steps, 'step')}: its learning rate never gets to "
            f"{config.optim.learning_rate:g}"
        )
    return found


def _resume(trainer: Trainer) -> None:
    total = trainer.plan.total_steps
    if not trainer.restore():
        trainer.progress.note("no checkpoint was saved: starting from step 0")
        return
    if trainer.step > total:
        raise UserError(
            f"--resume: the run in {trainer.config.run.workdir} has made {trainer.step} steps, "
            f"more than the {total} asked for: leave --steps and --epochs out, or ask for more"
        )
    trainer.progress.note(f"going on from the checkpoint at step {trainer.step}")
