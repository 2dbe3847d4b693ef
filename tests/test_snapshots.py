"""Snapshots of a training state: each stays what it was, whatever steps follow."""

import dataclasses
import gc
import threading
import time
import weakref

import numpy as np
import pytest

import alexnet_jax.engine
import alexnet_torch.engine
from alexnet.init import initial_weights
from alexnet.layers import variables
from alexnet.recipes import recipe
from alexnet.run import training_engine
from alexnet.schedule import rates
from alexnet_torch import checkpoint
from tests.conftest import first_batches

ENGINES = (alexnet_jax.engine.Engine, alexnet_torch.engine.Engine)


def make(kind, rule="sgd", seed=0):
    """An engine with statistics, momentum and convolutions, its batches and a way to step."""
    base = recipe("digits")
    config = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, variant="bn", width=0.05, image_size=67),
        data=dataclasses.replace(base.data, batch_size=8),
        optim=dataclasses.replace(base.optim, rule=rule),
    )
    spec = config.spec(10)
    engine = training_engine(kind, config, spec, initial_weights(spec, seed))
    batches, each = first_batches(config, 6), rates(config.optim, variables(spec), 1e-3)

    def step(number):
        engine.fetch(engine.train_step(batches[number], step=number, rates=each))

    return engine, step


def weights_of(engine):
    return {name: array.copy() for name, array in engine.weights().items()}


def written_and_read(engine, snapshot, kind, folder):
    """The weights of another engine that starts from a snapshot, and what it goes on to."""
    engine.write(folder, snapshot)
    other, step = make(kind, seed=1)
    other.restore(folder)
    weights = weights_of(other)
    step(2)
    return weights, weights_of(other)


def assert_equal(ones, others):
    for name, array in others.items():
        np.testing.assert_array_equal(ones[name], array, name)


@pytest.mark.parametrize("kind", ENGINES, ids=["jax", "torch"])
def test_it_stays_what_it_was_when_nobody_writes_it_in_time(kind, tmp_path):
    engine, step = make(kind)
    step(0)
    step(1)
    snapshot, then = engine.snapshot(), weights_of(engine)
    step(2)
    after = weights_of(engine)
    step(3)
    assert any((then[name] != array).any() for name, array in engine.weights().items())
    read, gone_on = written_and_read(engine, snapshot, kind, tmp_path)
    assert_equal(read, then)
    assert_equal(gone_on, after)  # so the momentum was right too


@pytest.mark.parametrize("rule", ["sgd", "caffe"])
def test_torch_writes_its_own_memory_and_an_update_waits(rule, tmp_path, monkeypatch):
    engine, step = make(alexnet_torch.engine.Engine, rule)
    step(0)
    step(1)
    snapshot, then, begun = engine.snapshot(), weights_of(engine), threading.Event()
    addresses = places(checkpoint.tensors(engine._model, engine._optimizer))
    lent = places(snapshot.tensors).items() & addresses.items()
    assert {f"{part}/fc6.weight" for part in ("params", "momentum")} <= dict(lent).keys()
    assert not [name for name, _ in lent if "running" in name]  # they change before the update
    save = checkpoint.save_file

    def slow(tensors, path):
        begun.set()
        time.sleep(0.5)
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    monkeypatch.setattr(checkpoint, "_PATIENCE", 60)
    writer = threading.Thread(target=engine.write, args=(tmp_path, snapshot))
    writer.start()
    assert begun.wait(60)
    step(2)
    writer.join()
    assert places(checkpoint.tensors(engine._model, engine._optimizer)) == addresses  # no copy
    assert_equal(checkpoint.read_arrays(tmp_path, engine._spec)["params"], then)
    assert any((then[name] != array).any() for name, array in engine.weights().items())


def places(tensors):
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def test_each_of_several_snapshots_stays_what_it_was(tmp_path):
    engine, step = make(alexnet_torch.engine.Engine)
    step(0)
    first, second, then = engine.snapshot(), engine.snapshot(), weights_of(engine)
    (tmp_path / "second").mkdir()
    engine.write(tmp_path / "second", second)
    step(1)
    engine.write(tmp_path, first)
    for folder in (tmp_path, tmp_path / "second"):
        assert_equal(checkpoint.read_arrays(folder, engine._spec)["params"], then)


def test_an_engine_that_nobody_needs_is_gone_at_once():
    engine, step = make(alexnet_torch.engine.Engine)
    step(0)
    model = weakref.ref(engine._model)
    gc.disable()
    try:
        del engine, step
        assert model() is None
    finally:
        gc.enable()


def test_a_step_does_not_wait_for_a_write_that_failed(tmp_path):
    engine, step = make(alexnet_torch.engine.Engine)
    step(0)
    snapshot = engine.snapshot()
    with pytest.raises(Exception, match="No such file"):
        engine.write(tmp_path / "missing", snapshot)
    assert snapshot.written.is_set()
    step(1)
