"""Work directories and disks, with and without space."""

import dataclasses
import shutil
from collections import namedtuple

import pytest

from alexnet import workdir
from alexnet.doctor import disk
from alexnet.doctor.finding import OK, WRONG
from alexnet.errors import RunError, UserError
from tests.doctor.helpers import config


def everything_in(folder):
    return sorted(
        (path, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    )


@pytest.mark.parametrize("name", ["new/run", ""])
def test_a_work_directory_is_tried_and_left_as_it_was(tmp_path, name):
    finding = disk.check_workdir(config("--workdir", tmp_path / name), processes=1)
    assert (finding.status, everything_in(tmp_path)) == (OK, [])


def test_a_run_in_the_way(tmp_path):
    path = tmp_path / "run"
    workdir.prepare(config("--workdir", path))
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "x").write_bytes(b"weights")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match="--resume goes on with it, --overwrite deletes"):
        disk.check_workdir(config("--workdir", path), 1)
    with pytest.raises(UserError, match="--seed"):
        disk.check_workdir(config("--workdir", path, "--resume", "--seed", "1"), 1)
    resumed = disk.check_workdir(config("--workdir", path, "--resume"), 1)
    replaced = disk.check_workdir(config("--workdir", path, "--overwrite"), 1)
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
        disk.check_workdir(config("--workdir", tmp_path, *flag), 1)
    assert asked_to_delete == [False]
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_work_directories_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises((UserError, RunError), match=r"file|/proc"):
            disk.check_workdir(config("--workdir", path), 1)


def test_several_processes_need_a_directory_that_they_share():
    assert disk.check_workdir(config(), processes=1).status == OK
    assert disk.check_workdir(config(), processes=2).status == WRONG


def test_space(tmp_path, monkeypatch):
    this = config("--workdir", tmp_path / "run", "--keep-checkpoints", "3")
    spec = this.spec(10)
    need = spec.num_params * 4 * (2 * (3 + 2) + 1)  # weights and momentum, and weights once more
    usage = namedtuple("usage", "total used free")

    def status(free, that=this):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
        (finding,) = disk.check_space(that, spec)
        return finding.status

    assert [status(need), status(need - 1)] == [OK, WRONG]
    without = dataclasses.replace(this, optim=dataclasses.replace(this.optim, momentum=0.0))
    assert status(need * 6 // 11 + 1, without) == OK
    checkpoints = tmp_path / "run" / "checkpoints" / "00000001"
    checkpoints.mkdir(parents=True)
    (checkpoints / "state").write_bytes(bytes(1000))
    assert [status(need - 1000), status(need - 1001)] == [OK, WRONG]


def test_a_bucket_has_no_disk_to_speak_of():
    assert disk.check_space(config("--workdir", "gs://bucket/run"), config().spec(10)) == []
