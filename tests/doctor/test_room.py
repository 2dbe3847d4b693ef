"""Work directories, disks and memory, with and without room."""

import dataclasses
import os
import shutil
from collections import namedtuple

import pytest

from alexnet import workdir
from alexnet.doctor import room
from alexnet.doctor.finding import OK, WARNING, WRONG
from alexnet.errors import RunError, UserError
from tests.doctor.helpers import CPU, config


def everything_in(folder):
    return sorted(
        (path, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    )


@pytest.mark.parametrize("name", ["new/run", ""])
def test_a_work_directory_is_tried_and_left_as_it_was(tmp_path, name):
    finding = room.check_workdir(config("--workdir", tmp_path / name), processes=1)
    assert (finding.status, everything_in(tmp_path)) == (OK, [])


def test_a_run_in_the_way(tmp_path):
    path = tmp_path / "run"
    workdir.prepare(config("--workdir", path))
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "x").write_bytes(b"weights")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match="--resume goes on with it, --overwrite deletes"):
        room.check_workdir(config("--workdir", path), 1)
    with pytest.raises(UserError, match="--seed"):
        room.check_workdir(config("--workdir", path, "--resume", "--seed", "1"), 1)
    resumed = room.check_workdir(config("--workdir", path, "--resume"), 1)
    replaced = room.check_workdir(config("--workdir", path, "--overwrite"), 1)
    assert "the run to go on with" in resumed.found
    assert "--overwrite deletes" in replaced.found
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("flag", [(), ("--overwrite",)])
def test_other_files_in_the_way(tmp_path, monkeypatch, flag):
    asked_to_delete, prepare = [], workdir.prepare

    def watched(asked):
        asked_to_delete.append(asked.run.overwrite)
        return prepare(asked)

    monkeypatch.setattr(workdir, "prepare", watched)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="files in it but no run"):
        room.check_workdir(config("--workdir", tmp_path, *flag), 1)
    assert asked_to_delete == [False]
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_work_directories_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises((UserError, RunError), match=r"file|/proc"):
            room.check_workdir(config("--workdir", path), 1)


def test_several_processes_need_a_directory_that_they_share():
    assert room.check_workdir(config(), processes=1).status == OK
    assert room.check_workdir(config(), processes=2).status == WRONG


def test_disk(tmp_path, monkeypatch):
    this = config("--workdir", tmp_path / "run", "--keep-checkpoints", "3")
    spec = this.spec(10)
    need = spec.num_params * 4 * (2 * (3 + 2) + 1)  # weights and momentum, and weights once more
    usage = namedtuple("usage", "total used free")

    def status(free, that=this):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
        return room.check_disk(that, spec).status

    assert [status(need), status(need - 1)] == [OK, WRONG]
    without = dataclasses.replace(this, optim=dataclasses.replace(this.optim, momentum=0.0))
    assert status(need * 6 // 11 + 1, without) == OK
    checkpoints = tmp_path / "run" / "checkpoints" / "00000001"
    checkpoints.mkdir(parents=True)
    (checkpoints / "state").write_bytes(bytes(1000))
    assert [status(need - 1000), status(need - 1001)] == [OK, WRONG]


def test_the_disk_of_a_bucket_is_not_looked_at():
    finding = room.check_disk(config("--workdir", "gs://bucket/run"), config().spec(10))
    assert finding.status == OK
    assert "gs://bucket/run is in a bucket" in finding.found


def test_memory_by_hand():
    this = config("--recipe", "torchvision", "--dataset", "synthetic", "--batch-size", "64")
    spec, images = this.spec(1000), 64 * 224 * 224 * 3
    weights = 61_100_840 * 4
    device, host = room.estimate(this, spec, devices=1, processes=1)
    assert host == 3 * weights + 300 * 2**20 + (2 + 2) * images
    outputs = (device - 5 * weights) / (2 * 64 * 4)
    conv1, pool1 = 64 * 55 * 55, 64 * 27 * 27
    assert 2 * conv1 + pool1 < outputs < 6 * conv1
    shared, _ = room.estimate(this, spec, devices=4, processes=1)
    assert shared - 5 * weights == (device - 5 * weights) // 4
    bf16 = dataclasses.replace(this, model=dataclasses.replace(this.model, precision="bf16"))
    half, _ = room.estimate(bf16, spec, 1, 1)
    assert half - 5 * weights == (device - 5 * weights) // 2


def test_memory(monkeypatch):
    this, spec = config(), config().spec(10)
    device, host = room.estimate(this, spec, 2, 1)
    accelerator = {**CPU, "platform": "tpu", "count": 2, "memory": device}

    def found(seen, available):
        monkeypatch.setattr(room, "available_memory", lambda: available)
        return [finding.status for finding in room.check_memory(this, spec, seen)]

    on_cpu = {**CPU, "count": 2}  # both share the host's memory
    assert found(on_cpu, host + 2 * device) == [OK]
    assert found(on_cpu, host + 2 * device - 1) == [WARNING]
    assert found(accelerator, host) == [OK, OK]
    assert found({**accelerator, "memory": device - 1}, host - 1) == [WARNING, WARNING]
    assert found(accelerator, None) == [OK, OK]


def test_a_containers_limit_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert room._cgroup(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert room._cgroup(tmp_path) is None
    assert (
        2**20 < room.available_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
