import dataclasses
import json

import pytest

from alexnet import workdir
from alexnet.errors import UserError
from alexnet.recipes import recipe


def config_in(path, **run):
    base = recipe("digits")
    return dataclasses.replace(base, run=dataclasses.replace(base.run, workdir=str(path), **run))


def record(step, split="train", loss=1.0):
    return {"step": step, "split": split, "loss": loss, "top1": 0.5, "top5": 0.9}


def test_a_new_directory_gets_the_configuration(tmp_path):
    path = workdir.prepare(config_in(tmp_path / "a" / "b"))
    assert workdir.read_config(path) == config_in(path)


def test_an_existing_run_needs_resume_or_overwrite(tmp_path):
    workdir.prepare(config_in(tmp_path))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n")
    with pytest.raises(UserError, match="--resume goes on with it, --overwrite deletes it"):
        workdir.prepare(config_in(tmp_path))
    workdir.prepare(config_in(tmp_path, resume=True))
    assert (tmp_path / "metrics.jsonl").exists()
    workdir.prepare(config_in(tmp_path, overwrite=True))
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not workdir.read_config(tmp_path).run.overwrite


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for flag in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="files in it but no run"):
            workdir.prepare(config_in(tmp_path, **flag))
    workdir.prepare(config_in(tmp_path / "run"))
    (tmp_path / "run/notes.txt").write_text("x")
    workdir.prepare(config_in(tmp_path / "run", overwrite=True))
    assert (tmp_path / "run/notes.txt").exists()


def test_resume_is_of_the_same_run(tmp_path):
    workdir.prepare(config_in(tmp_path))
    with pytest.raises(UserError, match="--seed"):
        workdir.prepare(config_in(tmp_path, resume=True, seed=9))
    other = dataclasses.replace(config_in(tmp_path, resume=True), framework="torch")
    with pytest.raises(UserError, match="trained by jax, not torch"):
        workdir.prepare(other)
    with pytest.raises(UserError, match="no run"):
        workdir.prepare(config_in(tmp_path / "none", resume=True))


@pytest.mark.parametrize("text", ["{", '{"model": 3, "nope": 1}', "[1]"])
def test_a_broken_configuration_is_a_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.read_config(tmp_path)


def test_resuming_drops_lines_after_the_checkpoint_and_a_cut_one(tmp_path):
    lines = [record(10), record(10, "eval"), record(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 30, "spl')
    assert workdir.read_metrics(tmp_path) == lines
    log = workdir.MetricsLog(tmp_path, 10)
    log.write(record(11))
    log.close()
    assert workdir.read_metrics(tmp_path) == [*lines[:2], record(11)]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("nonsense\n" + json.dumps(record(1)) + "\n")
    with pytest.raises(UserError, match="line 1"):
        workdir.read_metrics(tmp_path)
