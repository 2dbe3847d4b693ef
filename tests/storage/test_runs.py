"""Runs, weights and their locks on gs://, against an emulator of the storage API."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from alexnet import cli, files, lock, metrics, workdir
from alexnet.config_json import to_json
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.recipes import recipe
from alexnet.run import starting_weights
from alexnet.weights import Weights, load, save
from tests.conftest import NARROW, ROOT, run_train
from tests.storage.helpers import NEEDS_STORAGE, put

pytestmark = NEEDS_STORAGE
FRAMEWORKS = ("jax", "torch")


# Runs


def record(step):
    return {"step": step, "split": "train", "loss": 1.0, "top1": 0.5, "top5": 0.9}


def steps(path):
    return [line["step"] for line in metrics.read(path)]


def test_metrics_are_uploaded_when_asked_and_from_time_to_time(bucket):
    run = bucket / "run"
    log = metrics.MetricsLog(run, [])
    for step in (1, 2):
        log.write(record(step))
    assert steps(run) == []  # an object can't be appended to
    log.flush()
    assert steps(run) == [1, 2]
    log.write(record(3))
    assert steps(run) == [1, 2]
    log._due = 0.0
    log.write(record(4))
    assert steps(run) == [1, 2, 3, 4]
    log.close()
    log = metrics.MetricsLog(run, metrics.kept(run, 2, None)[0])  # going on from step 2
    assert steps(run) == [1, 2]
    log.write(record(5))
    log.close()
    assert steps(run) == [1, 2, 5]
    events = [file.read_bytes() for file in files.list_files(run / workdir.EVENTS)]
    assert events
    assert all(b"train/loss" in file for file in events)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_in_a_bucket(framework, bucket, tmp_path, capsys, monkeypatch):
    run = bucket / framework
    options = ("--framework", framework, *NARROW, "--steps", "6", "--checkpoint-every", "2")
    result = run_train(*options, "--workdir", run, env={"JAX_NUM_CPU_DEVICES": "8"})
    assert f"are in {run}" in result.stdout
    assert "Warning" not in result.stderr
    expected, weights = metrics.read(run), load(run / workdir.WEIGHTS)
    assert steps(run) == [1, 2, 3, 4, 5, 6, 6]
    with (run / workdir.CURVE).open("rb") as file, Image.open(file) as image:
        assert image.format == "PNG"
    assert files.list_files(run / workdir.EVENTS)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"00000004", "00000006"}

    # As if it had been killed in step 6: the last checkpoint is damaged, and passed over.
    state = max(files.list_files(run / "checkpoints/00000006/state"), key=lambda p: len(p.name))
    put(state, bytes(reversed(state.read_bytes())))
    (run / workdir.WEIGHTS).unlink()
    # This time it ends right after its last checkpoint: nothing logged until then may be lost.
    close, logs = metrics.MetricsLog.close, []
    monkeypatch.setattr(metrics.MetricsLog, "close", lambda log: logs.append(log))
    assert cli.main(["train", *options, "--workdir", str(run), "--resume"]) == 0
    output = capsys.readouterr().out
    assert "00000006 is damaged" in output
    assert "going on from the checkpoint at step 4" in output
    again, weights_again = metrics.read(run), load(run / workdir.WEIGHTS)
    for line in (*expected, *again):
        line.pop("examples_per_second")
    assert again == expected
    for name, array in weights.arrays.items():
        assert np.array_equal(weights_again.arrays[name], array), name

    close(logs[0])
    monkeypatch.undo()

    # Out of the bucket, and into it.
    local = tmp_path / "w.safetensors"
    assert cli.main(["convert", str(run / workdir.WEIGHTS), str(local)]) == 0
    assert cli.main(["convert", str(run), str(bucket / "step4.safetensors"), "--step", "4"]) == 0
    assert load(local).arrays["fc8.bias"].tobytes() == weights.arrays["fc8.bias"].tobytes()
    assert load(bucket / "step4.safetensors").spec == weights.spec


def test_a_run_is_deleted_only_when_that_is_asked_for(bucket):
    run = bucket / "run"
    config = recipe("digits")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, workdir=str(run)))
    workdir.prepare(config)
    old = put(run / "checkpoints" / "00000007" / "meta.json")
    notes = put(run / "notes.txt")
    with pytest.raises(UserError, match="holds a run already: --resume goes on with it"):
        workdir.prepare(config)
    again = dataclasses.replace(config, run=dataclasses.replace(config.run, overwrite=True))
    workdir.prepare(again)
    assert not old.exists()
    assert notes.exists()
    assert to_json(workdir.read_config(run)) == to_json(config)


def test_a_run_starts_from_weights_in_a_bucket(bucket):
    config = recipe("digits")
    model = dataclasses.replace(config.model, init_from=str(bucket / "w.safetensors"), width=1 / 16)
    config = dataclasses.replace(config, model=model)
    spec = config.spec(10)
    arrays = initial_weights(spec, seed=5)
    save(bucket / "w.safetensors", Weights(arrays, spec, config.preprocess))
    loaded, notes = starting_weights(config, spec)
    assert notes[0] == "weights from gs://bucket/w.safetensors"
    assert np.array_equal(loaded["conv1.kernel"], arrays["conv1.kernel"])


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"])
def test_binary_files_arrive_byte_for_byte(end, bucket):
    put(bucket / "binary", content := b"\x00\r\n\r\n\xff" + end)
    assert (bucket / "binary").read_bytes() == content


# One writer


def test_a_lock_in_a_bucket_has_one_holder(bucket, monkeypatch, capsys):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.3)
    run = bucket / "run"
    held = lock.acquire(run)
    with pytest.raises(UserError, match=f"process {os.getpid()} on host "):
        lock.acquire(run)
    assert "waiting to see if process" in capsys.readouterr().err
    held.release()
    assert not (run / "lock").exists()
    lock.acquire(run).release()


@pytest.mark.parametrize(
    ("holder", "waits"),
    [
        ({"host": "elsewhere", "process": 1, "token": "a", "age": 0}, True),  # killed there
        ({"host": "elsewhere", "process": 1, "token": "a", "age": 500}, False),
        ({"host": socket.gethostname(), "process": 4_000_000, "token": "a", "age": 0}, False),
        ({}, False),
    ],
    ids=["silent", "silent for long", "killed here", "unreadable"],
)
def test_a_lock_in_a_bucket_ends_some_time_after_its_holder(
    holder, waits, bucket, monkeypatch, capsys
):
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 2)
    renewed = {"renewed": time.time() - holder.pop("age", 0)} if holder else {}
    put(bucket / "run/lock", json.dumps(holder | renewed).encode())
    lock.acquire(bucket / "run").release()
    assert ("waiting to see if process 1 on elsewhere" in capsys.readouterr().err) == waits
    assert not (bucket / "run/lock").exists()


def test_a_lock_in_a_bucket_is_renewed(bucket, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.3)
    held = lock.acquire(bucket / "run")
    first, deadline = held._holder(), time.monotonic() + 20
    while held._holder()["renewed"] == first["renewed"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    held.release()


def test_a_run_whose_lock_was_taken_over_ends(bucket):
    program = """
import sys, time
from alexnet import files, lock
lock.RENEW_SECONDS = 0.5
lock.acquire(files.as_path("gs://bucket/run"))
print("held", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "held\n"
        put(bucket / "run/lock", b'{"token": "another"}')
        assert process.wait(timeout=60) == 1
        assert "another run has taken over gs://bucket/run" in process.stderr.read()
