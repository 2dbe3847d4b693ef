"""The loop by itself, with an engine that only counts."""

import dataclasses
import inspect
import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from alexnet import metrics
from alexnet.checkpoints import Checkpoints, read_meta
from alexnet.errors import RunError, UserError
from alexnet.layers import variables
from alexnet.loop import Plan, Trainer
from alexnet.recipes import recipe
from alexnet.report.progress import Progress


class CountingEngine:
    """Its state is how many steps it made; it can be told to misbehave."""

    def __init__(self):
        self.steps, self.rates, self.finite = 0, [], True
        self.at_once = True  # a step is done when `train_step` comes back; else when fetched
        self.work = lambda: None
        self.on_eval = lambda: None
        self.loss = lambda: 1.0
        self.rows = np.arange(100)

    def train_step(self, batch, *, step, rates):
        assert step == self.steps
        self.steps += 1
        if self.at_once:
            self.work()
        self.rates.append(rates["fc8.kernel"])
        return {"loss": self.loss(), "top1": 0.5, "top5": 0.9}

    def eval_step(self, batch):
        self.on_eval()
        count = float(batch["mask"].sum())
        return {"loss": 2 * count, "top1": count / 2, "top5": count, "count": count}

    def is_done(self, metrics):
        return self.at_once

    def fetch(self, metrics):
        if not self.at_once and "top5" in metrics and "count" not in metrics:
            self.work()
        return metrics

    def is_finite(self):
        return self.finite

    def snapshot(self):
        return self.steps

    def write(self, directory, snapshot):
        (directory / "steps").write_text(str(snapshot))

    def restore(self, directory):
        self.steps = int((directory / "steps").read_text())


def make_trainer(path, engine, **run):
    base = recipe("digits")
    run = {"steps": 9, "eval_every": 4, "checkpoint_every": 3, "log_every": 2, **run}
    config = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, batch_size=100),
        run=dataclasses.replace(base.run, epochs=None, workdir=path, **run),
    )
    dataset = config.open_dataset()
    plan = Plan.of(config, dataset)
    checkpoints = Checkpoints(path / "checkpoints", 2, engine.write)
    progress = Progress(plan.total_steps, plan.steps_per_epoch)
    arrays = variables(config.spec(10))
    return Trainer(config, dataset, engine, checkpoints, progress, plan, arrays)


def run(trainer, kept=()):
    trainer.log = metrics.MetricsLog(trainer.config.run.workdir, kept)
    try:
        return trainer.run()
    finally:
        trainer.log.close()


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_everything_happens_when_it_should(tmp_path):
    trainer = make_trainer(tmp_path, CountingEngine())
    assert run(trainer) == 0
    order = [(line["step"], line["split"]) for line in lines(tmp_path)]
    assert order == [(2, "train"), (4, "train"), (4, "eval"), (6, "train"), (8, "train"),
                     (8, "eval"), (9, "train"), (9, "eval")]  # fmt: skip
    assert trainer.checkpoints.steps() == [6, 9]
    assert [line["loss"] for line in lines(tmp_path) if line["split"] == "eval"] == [2.0] * 3
    assert {line["count"] for line in lines(tmp_path) if line["split"] == "eval"} == {359}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("log_every", [1, 2])
def test_rates_are_those_of_the_steps_themselves(at_once, log_every, tmp_path, monkeypatch):
    """By a clock that only steps and evaluations move: 100 images a second, whatever comes."""
    now = [0.0]

    def pass_time(seconds):
        now[0] += seconds

    monkeypatch.setattr("alexnet.loop.time.perf_counter", lambda: now[0])
    engine = CountingEngine()
    engine.at_once, engine.work = at_once, lambda: pass_time(1.0)
    engine.on_eval = lambda: pass_time(50.0)
    assert run(make_trainer(tmp_path, engine, log_every=log_every)) == 0
    rates = [line["examples_per_second"] for line in lines(tmp_path) if line["split"] == "train"]
    assert len(rates) >= 5
    assert rates == pytest.approx([100.0] * len(rates))


def test_a_batch_without_a_readable_image_is_no_loss_of_0(tmp_path):
    engine = CountingEngine()
    engine.train_step = lambda batch, **_: {"loss": 0.0, "top1": 0.0, "top5": 0.0}
    trainer = make_trainer(tmp_path, engine)
    with pytest.raises(UserError, match="not one image of step 1's batch can be read"):
        run(trainer)
    assert lines(tmp_path) == []
    assert trainer.checkpoints.steps() == []


def test_a_signal_during_evaluation_saves_and_leaves_the_evaluation_for_later(tmp_path):
    engine = CountingEngine()
    engine.on_eval = lambda: os.kill(os.getpid(), signal.SIGTERM)
    trainer = make_trainer(tmp_path, engine)
    assert run(trainer) == 128 + signal.SIGTERM
    assert trainer.step == 4
    assert trainer.checkpoints.steps() == [3, 4]
    assert not [line for line in lines(tmp_path) if line["split"] == "eval"]

    again = make_trainer(tmp_path, CountingEngine())
    meta = again.restore()
    records, problem = metrics.kept(tmp_path, again.step, meta["log"])
    assert not problem
    assert run(again, records) == 0
    whole = make_trainer(tmp_path / "whole", CountingEngine())
    run(whole)
    for ours, theirs in zip(lines(tmp_path), lines(tmp_path / "whole"), strict=True):
        del ours["examples_per_second"], theirs["examples_per_second"]
        assert ours == theirs


def test_an_evaluation_that_a_signal_ended_comes_once_and_counts(tmp_path):
    """However often a run is resumed at its last step: one line, and a score in the checkpoint."""
    engine = CountingEngine()
    engine.on_eval = lambda: os.kill(os.getpid(), signal.SIGTERM) if engine.steps == 9 else None
    assert run(make_trainer(tmp_path, engine)) == 128 + signal.SIGTERM
    meta = read_meta(tmp_path / "checkpoints/00000009")
    assert meta["score"] is None
    for _ in range(3):
        again = make_trainer(tmp_path, CountingEngine())
        meta = again.restore()
        records, problem = metrics.kept(tmp_path, again.step, meta["log"])
        assert not problem
        assert run(again, records) == 0
        evals = [line["step"] for line in lines(tmp_path) if line["split"] == "eval"]
        assert evals == [4, 8, 9]
    meta = read_meta(tmp_path / "checkpoints/00000009")
    assert meta["score"] == [0.5, -2.0]
    assert [record["step"] for record in meta["evals"]] == [4, 8, 9]


def test_a_checkpoint_that_fails_ends_the_run_at_the_next_step(tmp_path):
    engine = CountingEngine()
    trainer = make_trainer(tmp_path, engine, steps=100_000, eval_every=100_000)

    def full(directory, snapshot):
        raise OSError(28, "No space left on device")

    trainer.checkpoints._write = full
    with pytest.raises(RunError, match="No space left on device; none was saved"):
        run(trainer)
    assert engine.steps < 50_000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_step_and_checkpoint(tmp_path, value):
    engine = CountingEngine()
    engine.loss = lambda: value if engine.steps == 5 else 1.0
    with pytest.raises(RunError, match=r"at step 5, after 1 the .* rate of .*; .*00000003"):
        run(make_trainer(tmp_path, engine))
    assert all(line["step"] < 5 for line in lines(tmp_path))


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    engine = CountingEngine()
    engine.finite = False
    with pytest.raises(RunError, match=r"not a finite number after step 3.* none was"):
        run(make_trainer(tmp_path, engine))


def test_an_evaluation_that_loses_examples_is_an_error(tmp_path):
    engine = CountingEngine()
    engine.eval_step = lambda batch: {"loss": 1.0, "top1": 0.0, "top5": 0.0, "count": 50.0}
    with pytest.raises(RunError, match="counted 200 examples and left out 0, but there are 359"):
        run(make_trainer(tmp_path, engine))


def plateau_trainer(path, engine):
    trainer = make_trainer(path, engine, steps=6, eval_every=1)
    optim = dataclasses.replace(
        trainer.config.optim, schedule="plateau", patience=2, warmup_steps=0, learning_rate=1.0
    )
    trainer.config = dataclasses.replace(trainer.config, optim=optim)
    return trainer


def test_the_plateau_schedule_sees_the_evaluations(tmp_path):
    engine = CountingEngine()
    run(plateau_trainer(tmp_path, engine))
    assert engine.rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])


def test_a_resumed_plateau_schedule_remembers_the_evaluations(tmp_path):
    engine = CountingEngine()
    engine.loss = lambda: float("nan") if engine.steps == 5 else 1.0
    with pytest.raises(RunError):
        run(plateau_trainer(tmp_path, engine))
    engine = CountingEngine()
    trainer = plateau_trainer(tmp_path, engine)
    assert trainer.restore()
    assert trainer.step == 3
    run(trainer)
    assert engine.rates == pytest.approx([0.1, 0.1, 0.01])


def test_a_checkpoint_written_late_knows_nothing_of_later_evaluations(tmp_path):
    engine = CountingEngine()
    trainer = make_trainer(tmp_path, engine, steps=4)
    write = engine.write

    def late(directory, snapshot):
        for _ in range(500):  # until the evaluation at step 4 is in
            if snapshot != 3 or trainer.evals:
                break
            time.sleep(0.01)
        write(directory, snapshot)

    trainer.checkpoints = Checkpoints(tmp_path / "late", 2, late)
    run(trainer)
    evals = {
        step: json.loads((tmp_path / f"late/{step:08d}/meta.json").read_text())["evals"]
        for step in (3, 4)
    }
    assert evals[3] == []
    assert [record["step"] for record in evals[4]] == [4]


def test_a_signal_after_the_evaluation_still_saves(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, CountingEngine())
    boundary = trainer._evaluate_and_save

    def then_signal(received):  # step 4 has an evaluation, and no checkpoint of its own
        boundary(received)
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "_evaluate_and_save", then_signal)
    assert run(trainer) == 128 + signal.SIGTERM
    assert trainer.checkpoints.steps() == [3, 4]


def test_a_run_past_its_end_ends(tmp_path):
    """The end is a comparison, not an equality: a step past it must not train for good."""
    engine = CountingEngine()
    trainer = make_trainer(tmp_path, engine, steps=4)
    trainer.step = engine.steps = 6
    assert run(trainer) == 0
    assert engine.steps == 6


def test_the_loop_shows_nothing_by_itself():
    """What people see is an observer's work: the loop imports no report."""
    source = inspect.getsource(sys.modules["alexnet.loop"])
    assert "alexnet.report" not in source
