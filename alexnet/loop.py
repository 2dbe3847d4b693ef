"""The training loop, with the framework behind an `Engine` and the display behind an `Observer`."""

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from alexnet.checkpoints import Checkpoints
from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset
from alexnet.data.pipeline import (
    BadImages,
    Batches,
    eval_batches,
    steps_per_epoch,
    train_batches,
)
from alexnet.engine import Engine
from alexnet.errors import RunError, UserError
from alexnet.evaluate import evaluate
from alexnet.layers import Variable
from alexnet.metrics import MetricsLog
from alexnet.processes import Processes
from alexnet.schedule import learning_rate, rates
from alexnet.signals import graceful
from alexnet.text import storable


class Observer(Protocol):
    """An observer of a run's progress: a bar on a terminal, lines in a log."""

    def note(self, text: str) -> None:
        """Show a sentence."""

    def train(self, record: dict[str, Any], logged: bool) -> None:
        """Show a step's metrics; `logged` is set if they were written to the log."""

    def evaluating(self, done: int, total: int) -> None:
        """Show an evaluation's progress."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """Show an evaluation's result."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run: the numbers of completed steps at which things happen."""

    total_steps: int
    steps_per_epoch: int
    eval_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset) -> "Plan":
        """The plan of a run over a data set."""
        run, epoch = config.run, steps_per_epoch(dataset, config.data.batch_size)
        total = run.steps or max(1, round((run.epochs or 1) * epoch))
        eval_every = run.eval_every or epoch
        return cls(total, epoch, eval_every, run.checkpoint_every or eval_every)

    def due(self, step: int, *every: int) -> bool:
        """Return True if `step` ends the run, or is a multiple of any of the numbers `every`."""
        return step > 0 and (step >= self.total_steps or any(step % n == 0 for n in every))


@dataclass
class Trainer:
    """A run in progress: the engine, and everything else that changes from step to step.

    The rest of the run depends only on `step`, `evals` and the engine's state, and these three are
    what a checkpoint holds.
    """

    config: TrainConfig
    dataset: Dataset
    engine: Engine
    checkpoints: Checkpoints
    progress: Observer
    plan: Plan
    variables: Mapping[str, Variable]  # of the network
    data: dict[str, Any] = field(default_factory=dict)  # the data set's fingerprint
    processes: Processes = field(default_factory=Processes)
    log: MetricsLog | None = None
    step: int = 0
    evals: list[dict[str, float]] = field(default_factory=list)
    saved_step: int = -1
    last_loss: float | None = None  # of a training batch
    bad_images: BadImages = field(default_factory=BadImages)
    named: set[str] = field(default_factory=set)  # unreadable images already reported, as sentences
    timed: tuple[int, float] = (0, 0.0)  # a step and its time of completion, moved on by pauses

    def run(self) -> int:
        """Train to the end, or until a signal asks to stop.

        Returns:
            0 at the end of the run, or a signal's exit code, with everything saved.

        Raises:
            RunError: for a loss that is not finite, a checkpoint that can't be written, or another
                process that has died.
        """
        several = self.processes.count > 1  # torchrun sends SIGTERM after a Ctrl-C
        try:
            with (
                graceful(
                    self.progress.note, self.processes.stop_signals, 2 if several else 1
                ) as received,
                contextlib.closing(self._batches()) as batches,
            ):
                stop = self._run(batches, received)
                self.checkpoints.wait()
            return stop
        except Exception as error:
            if (sentence := self.processes.explain(error)) is None:
                raise
            raise RunError(
                f"{sentence}; {self.checkpoints.last_good()}: start all processes again with "
                "--resume"
            ) from error

    def _batches(self) -> Batches:
        """Batches from the next step on."""
        return train_batches(
            self.dataset,
            self.config.augmentation,
            self.config.loading(self.engine.rows),
            seed=self.config.run.seed,
            start_step=self.step,
            bad_images=self.bad_images,
        )

    def _run(self, batches: Batches, received: list[int]) -> int:
        """Train; return the exit code of the signal that ended the run, or 0."""
        plan, self.timed = self.plan, (self.step, time.perf_counter())
        if self.config.model.init_from and self.step == 0 and self.saved_step != 0:
            self._save()  # if killed and restarted, the run might find other weights there
        own = received if self.processes.count == 1 else []  # with others, all have to agree
        pending: tuple[int, float, Any] | None = None  # step, rate and metrics, still computing
        while True:
            stop = self.processes.agreed_stop(self.step, next(iter(received), 0))
            if stop or plan.due(self.step, plan.eval_every, plan.checkpoint_every):
                if pending:
                    self._report(*pending)
                pending = None
                self._evaluate_and_save(own)
                stop = stop or next(iter(own), 0)
                if stop or self.step >= plan.total_steps:
                    break
            rate = self._learning_rate()
            epoch = self.step / plan.steps_per_epoch
            each = rates(self.config.optim, self.variables, rate, epoch)
            metrics = self.engine.train_step(next(batches), step=self.step, rates=each)
            self.checkpoints.check()
            if pending:
                self._report(*pending)
            self.step += 1
            pending = (self.step, rate, metrics)
            # With several processes, all must find out at the same point that a run has diverged.
            if self.processes.count == 1 and self.engine.is_done(metrics):
                self._report(*pending)
                pending = None
        if stop and self.saved_step != self.step:
            self._save()
        return stop

    def _learning_rate(self) -> float:
        return learning_rate(
            self.config.optim,
            self.step,
            total_steps=self.plan.total_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
            # Not the evaluation at a run's end, which only an extended run would have at that step.
            eval_losses=[
                record["loss"]
                for record in self.evals
                if record["step"] % self.plan.eval_every == 0
            ],
        )

    def _report(self, step: int, rate: float, metrics: Any) -> None:
        """Wait for a step's metrics, refuse a non-finite loss, and log."""
        values = self.engine.fetch(metrics)
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"the loss is {values['loss']} at step {step}", rate)
        self.last_loss = values["loss"]
        self._name_bad(self.bad_images)
        if values["loss"] == values["top1"] == 0:  # for any example, one of them is above 0
            raise UserError(
                f"not one image of step {step}'s batch can be read: remove such images, or replace "
                "them"
            )
        record = {"step": step, "split": "train", **values, "learning_rate": rate}
        due = self.plan.due(step, self.config.run.log_every)
        if due:
            (since_step, since), now = self.timed, time.perf_counter()
            examples = (step - since_step) * self.config.data.batch_size
            record["examples_per_second"] = examples / max(now - since, 1e-9)
            self.timed = (step, now)
            self._write(record)
        self.progress.train(record, due)

    def _write(self, record: dict[str, Any]) -> None:
        if self.log:
            try:
                self.log.write(record)
            except RunError as error:
                raise RunError(f"{error}; {self.checkpoints.last_good()}") from error

    def _evaluate_and_save(self, stop: list[int]) -> None:
        start = time.perf_counter()
        done = self.evals and self.evals[-1]["step"] == self.step
        due = self.plan.due(self.step, self.plan.eval_every) and not done
        found = self._evaluate(stop) if due else None
        if found:
            if not math.isfinite(found["loss"]):
                sentence = f"the evaluation's loss is {found['loss']} at step {self.step}"
                raise self._diverged(sentence, self._learning_rate())
            record: dict[str, Any] = {"step": self.step, "split": "eval", **found}
            record["learning_rate"] = self._learning_rate()
            self._write(record)
            self.evals.append(record)
            self.progress.evaluation(record)
        if self.saved_step != self.step and self.plan.due(self.step, self.plan.checkpoint_every):
            self._save()
        elif self.saved_step == self.step and found:  # a signal had kept it from the checkpoint
            self.checkpoints.amend(self.step, self._meta())
        self.timed = (self.timed[0], self.timed[1] + time.perf_counter() - start)

    def _evaluate(self, stop: list[int]) -> dict[str, float] | None:
        """Evaluate; None if a signal in `stop` comes first, as the resumed run will evaluate then.

        With several processes, none stops in the middle: the others would hang.
        """
        source, bad = self.dataset.eval, BadImages()  # an image may be readable the next time
        loading = self.config.loading(self.engine.rows)
        result = evaluate(
            self.engine,
            eval_batches(
                source,
                self.config.preprocess.protocol,
                loading,
                bad,
                num_classes=self.dataset.num_classes,
            ),
            len(source),
            bad_images=bad,
            processes=self.processes,
            stop=lambda: bool(stop),
            on_progress=lambda done: self.progress.evaluating(done, len(source)),
        )
        self._name_bad(bad)
        return result

    def _name_bad(self, bad_images: BadImages) -> None:
        """Report unreadable images that have not been reported yet."""
        for sentence in bad_images.take_new():
            if sentence not in self.named:
                self.named.add(sentence)
                self.progress.note(f"left out: {sentence}")

    def _save(self) -> None:
        if not self.engine.is_finite():
            sentence = f"a weight is not a finite number after step {self.step}"
            raise self._diverged(sentence, self._learning_rate())
        self.checkpoints.save(self.step, self.engine.snapshot(), self._meta())
        self.saved_step = self.step

    def _meta(self) -> dict[str, Any]:
        """The run's state besides the engine's."""
        last = self.evals[-1] if self.evals else {}
        meta: dict[str, Any] = {
            "evals": list(self.evals),  # a copy: it is written while training continues
            "score": [last["top1"], -last["loss"]] if last.get("step") == self.step else None,
            "num_classes": self.dataset.num_classes,
            "class_names": [*map(storable, self.dataset.class_names)],
            "data": {k: v for k, v in self.data.items() if k != "class_names"},
        }
        if self.log:
            self.log.flush()  # no line from before a checkpoint may be lost
            meta["log"] = self.log.digest
        return meta

    def restore(self) -> dict[str, Any] | None:
        """Go back to the last intact checkpoint, and return its `meta`; None if there is none.

        Raises:
            RunError: if all checkpoints are damaged.
        """
        meta = self.checkpoints.restore(self.engine.restore, self.progress.note)
        if meta is not None:
            self.step, self.evals = meta["step"], meta["evals"]
            self.saved_step = self.step
        return meta

    def _diverged(self, what: str, rate: float) -> RunError:
        """The error for non-finite numbers: pixels and labels are finite, so it's the rate."""
        self.checkpoints.wait()
        before = "" if self.last_loss is None else f", after {self.last_loss:.4g} the step before"
        return RunError(
            f"{what}{before}: steps at a learning rate of {rate:.4g} are too large for this "
            f"network and batch; {self.checkpoints.last_good()}. Try a lower --learning-rate, more "
            "--warmup-steps or --clip-norm 1"
        )
