"""A training run, from its configuration to its last line of output."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from alexnet import metrics, output, weights, workdir
from alexnet.checkpoints import Checkpoints
from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset, changed, fingerprint
from alexnet.data.folder import check_outside
from alexnet.engine import Engine, load_engine
from alexnet.errors import RunError, UserError
from alexnet.files import as_path
from alexnet.layers import Spec, variables
from alexnet.loop import Plan, Trainer
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.processes import Processes, check_alike, connect, listed, part_with, together
from alexnet.report.curves import draw_curves
from alexnet.report.progress import Progress, summary
from alexnet.start import starting_weights
from alexnet.text import counted, printable


def train(config: TrainConfig, ended: Callable[[Trainer], None] | None = None) -> int:
    """Train, with all output in the work directory.

    Returns 0, or 128 + the signal's number if a signal stopped the run and it saved. In both cases,
    process 0 calls `ended`.

    Raises:
        UserError: for a mistake in the configuration or the data.
        RunError: if training can't continue.
    """
    # Before anything else uses the framework.
    processes = connect(config.framework, config.devices)
    return part_with(processes, lambda: _train(config, processes, ended))


def _train(
    config: TrainConfig, processes: Processes, ended: Callable[[Trainer], None] | None
) -> int:
    config = _with_workdir(config, processes)
    options = dataclasses.asdict(config)
    options["devices"]["process"] = None
    check_alike(processes, "options", options)
    preprocess = together(processes, lambda: config.preprocess)  # which reads a mean image
    check_alike(processes, "preprocessing", preprocess_to_json(preprocess))
    engine_class = load_engine(config.framework)
    dataset = together(processes, config.open_dataset)
    if not config.run.resume:
        path = as_path(config.run.workdir or "")
        together(processes, lambda: check_outside(path, dataset))
    check_alike(processes, "data", (dataset.name, len(dataset.train), dataset.class_names))
    spec, plan = config.spec(dataset.num_classes), Plan.of(config, dataset)
    arrays, notes = together(processes, lambda: starting_weights(config, spec, dataset.class_names))
    engine = training_engine(engine_class, config, spec, arrays)
    del arrays  # a quarter of a gigabyte
    lock = together(processes, lambda: None if processes.index else workdir.claim(config))
    try:
        notes = [*_headline(config, dataset, spec, plan), engine.describe(), *notes]
        code, trainer = _run(config, dataset, engine, spec, plan, processes, notes)
        if ended and processes.index == 0:
            ended(trainer)
        return code
    finally:
        if lock:
            lock.release()


def _run(
    config: TrainConfig,
    dataset: Dataset,
    engine: Engine,
    spec: Spec,
    plan: Plan,
    processes: Processes,
    notes: Sequence[str],
) -> tuple[int, Trainer]:
    """Train in this run's own work directory; return the exit code and the trainer."""
    path = as_path(config.run.workdir or "")  # `_with_workdir` named one
    _check_shared(path, processes)
    total, epoch, index = plan.total_steps, plan.steps_per_epoch, processes.index
    with Progress(total, epoch, dataset.num_classes, index) as progress:
        for note in notes if index == 0 else ():
            progress.note(note)
        if processes.count > 1:
            output.say(processes.describe())
        folder, keep = path / workdir.CHECKPOINTS, config.run.keep_checkpoints
        checkpoints = Checkpoints(folder, keep, engine.write, processes, progress.note)
        data, roles = fingerprint(dataset), variables(spec)
        trainer = Trainer(
            config, dataset, engine, checkpoints, progress, plan, roles, data, processes
        )
        kept = _resume(trainer, path) if config.run.resume else []
        if config.run.resume and index == 0:  # only now, since resuming may be refused
            workdir.keep_length(path, config.run)
        progress.begin_at(trainer.step)
        code = trainer.run() if processes.index else _run_logged(trainer, path, kept)
    if code:
        if processes.index == 0:
            here = printable(str(path))
            output.say(
                f"stopped at step {trainer.step}; --resume --workdir {here} goes on from there"
            )
        return code, trainer
    arrays, source = engine.weights(), f"run {path.absolute().name}, step {trainer.step}"
    if processes.index == 0:
        saved = weights.Weights(arrays, spec, config.preprocess, dataset.class_names, source)
        try:
            weights.save(path / workdir.WEIGHTS, saved)
        except UserError as error:  # the directory is gone, which is not the user's mistake
            raise RunError(f"{error}; {checkpoints.last_good()}") from error
        output.say(f"weights, metrics and {workdir.CURVE} are in {printable(str(path))}")
        output.say(summary(trainer.evals[-1], dataset.num_classes))
    return 0, trainer


def training_engine(
    engine_class: type[Engine], config: TrainConfig, spec: Spec, arrays: Mapping[str, np.ndarray]
) -> Engine:
    """The engine of a training run.

    Raises:
        UserError: if the batch can't be divided among the devices, or a group matches nothing.
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


def _run_logged(trainer: Trainer, path: Path, kept: Sequence[metrics.Record]) -> int:
    """Run the loop in process 0, which keeps the log and draws the curves."""
    trainer.log = log = metrics.MetricsLog(path, kept)
    try:
        code = trainer.run()
        log.close()
        return code
    except BaseException:
        with contextlib.suppress(RunError, UserError):  # a full disk is already being reported
            log.close()
        raise
    finally:
        _draw(trainer, path)


def _draw(trainer: Trainer, path: Path) -> None:
    """Draw the curves; if that fails, the run still keeps its weights."""
    config = trainer.config
    title = f"AlexNet '{config.model.variant}' on {config.data.dataset}, {config.framework}"
    try:
        if records := metrics.read(path):
            draw_curves(records, path / workdir.CURVE, title, config.optim.label_smoothing)
    except Exception as error:  # matplotlib may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        trainer.progress.note(f"{workdir.CURVE} could not be drawn: {printable(reason):.200}")


def _check_shared(path: Path, processes: Processes) -> None:
    """Refuse a work directory that is not shared by all hosts."""
    sees = processes.gather([(path / workdir.CONFIG).is_file()])[:, 0]
    if blind := listed(sees == 0):
        raise UserError(
            f"process {blind} does not see process 0's --workdir {path}: give a directory that all "
            "hosts share"
        )


def _with_workdir(config: TrainConfig, processes: Processes) -> TrainConfig:
    """The configuration, with a new work directory if it names none."""
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
    """Sentences about settings that are valid but probably unintended."""
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


def _resume(trainer: Trainer, path: Path) -> list[metrics.Record]:
    """Go back to the last checkpoint, and return the log's records from before it."""
    total, meta = trainer.plan.total_steps, trainer.restore()
    if meta is None:
        if (path / workdir.WEIGHTS).is_file():
            raise UserError(
                f"--resume: the run in {path} has its last weights, but no checkpoint to go on "
                f"from: start another run from them: --init-from {path} with another --workdir"
            )
        trainer.progress.note("no checkpoint was saved: starting from step 0")
        return []
    if trainer.step > total:
        raise UserError(
            f"--resume: the run in {path} has made {trainer.step} steps, "
            f"more than the {total} asked for: leave --steps and --epochs out, or ask for more"
        )
    if changes := changed(meta, trainer.dataset.class_names, trainer.data):
        raise UserError(
            f"--resume goes on with the run in {path} on the same data, but {changes}: put that "
            f"back as it was, or start another run from its weights: --init-from {path} with "
            "another --workdir"
        )
    trainer.progress.note(f"going on from the checkpoint at step {trainer.step}")
    given = trainer.config.model.init_from
    if given != workdir.read_config(path).model.init_from:  # allowed, since files may have moved
        trainer.progress.note(f"its weights are the checkpoint's: --init-from {given} is not read")
    trainer.checkpoints.forget_old()  # in case a killed run didn't get to it
    kept, problem = metrics.kept(path, trainer.step, meta.get("log"))
    if problem and trainer.processes.index == 0:
        trainer.progress.note(f"warning: {problem}")
    return kept
