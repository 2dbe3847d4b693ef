import dataclasses
import json
import os

import pytest

from alexnet import metrics, workdir
from alexnet.errors import UserError
from alexnet.recipes import recipe
from alexnet.report.page.document import document
from alexnet.schedule import learning_rate


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


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tmp_path):
    for text in ('{"model": "mine"}', "not JSON", "[]"):
        other = tmp_path / "other"
        (other / "checkpoints").mkdir(parents=True, exist_ok=True)
        (other / "config.json").write_text(text)
        (other / "checkpoints/model.pt").write_text("x")
        with pytest.raises(UserError, match="--overwrite deletes runs only"):
            workdir.prepare(config_in(other, overwrite=True))
        assert (other / "config.json").read_text() == text
        assert (other / "checkpoints/model.pt").exists()
    run = workdir.prepare(config_in(tmp_path / "run"))
    kept = ["checkpoints/model.pt", "checkpoints/best/weights", "tensorboard/notes", "notes.txt"]
    gone = ["checkpoints/00000120/state/a", "checkpoints/damaged-00000024/meta.json",
            "tensorboard/events.out.tfevents.1.host", "weights.safetensors", "curve.png",
            "metrics.jsonl"]  # fmt: skip
    for name in kept + gone:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    workdir.prepare(config_in(run, overwrite=True))
    assert [name for name in kept if not (run / name).exists()] == []
    assert [name for name in gone if (run / name).exists()] == []
    for name in kept[:2]:
        (run / name).unlink()
    (run / "checkpoints/best").rmdir()
    (run / "checkpoints/00000120").mkdir()
    workdir.prepare(config_in(run, overwrite=True))
    assert not (run / "checkpoints").exists()


def test_a_directory_that_a_killed_run_left_is_no_obstacle(tmp_path):
    """Killed right after the start, it has left a file half written, or only its lock."""
    for left in (".config.json.123-0a1b2c3d.host.tmp", ".config.json.0a1b2c3d.tmp", "lock"):
        path = tmp_path / left.strip(".")
        path.mkdir()
        (path / left).write_text("{")
        with pytest.raises(UserError, match="no run"):
            workdir.prepare(config_in(path, resume=True))
        workdir.prepare(config_in(path))
        assert [inside.name for inside in path.iterdir()] == ["config.json"]


def test_what_killed_runs_had_not_finished_is_deleted(tmp_path):
    workdir.prepare(config_in(tmp_path))
    checkpoint = tmp_path / "checkpoints/00000004"
    checkpoint.mkdir(parents=True)
    stale = [tmp_path / f".{name}.1-0a1b2c3d.host.tmp" for name in ("metrics.jsonl", "curve.png")]
    stale.append(checkpoint / ".meta.json.1-0a1b2c3d.host.tmp")
    others = [tmp_path / ".mine.tmp", tmp_path / ".thesis.tex.1-0a1b2c3d.host.tmp"]
    for path in (*stale, *others):
        path.touch()
    workdir.prepare(config_in(tmp_path, resume=True))
    assert [path.exists() for path in (*stale, *others)] == [False] * 3 + [True] * 2


def test_overwrite_empties_a_linked_folder_and_leaves_the_link(tmp_path):
    run = workdir.prepare(config_in(tmp_path / "run"))
    (tmp_path / "scratch/00000004").mkdir(parents=True)
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    workdir.prepare(config_in(run, overwrite=True))
    assert (run / "checkpoints").is_symlink()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("ours", [True, False])
def test_overwrite_deletes_the_report_of_the_old_run_but_no_other_page(ours, tmp_path):
    run = workdir.prepare(config_in(tmp_path / "run"))
    text = document("run", [], None) if ours else "<html>my notes</html>"
    (run / "report.html").write_text(text)
    workdir.prepare(config_in(run, overwrite=True))
    assert (run / "report.html").exists() is not ours


def test_a_changed_configuration_is_noticed(tmp_path):
    """Momentum of 0.8 in place of 0.9 would resume without a word."""
    workdir.prepare(config_in(tmp_path))
    file = tmp_path / "config.json"
    text = file.read_text()
    assert '"momentum": 0.9' in text
    file.write_text(text.replace('"momentum": 0.9', '"momentum": 0.8'))
    with pytest.raises(UserError, match="its digest does not match"):
        workdir.prepare(config_in(tmp_path, resume=True))
    file.write_text(text.replace('"digest"', '"digesu"'))
    with pytest.raises(UserError, match="is not one that this version wrote"):
        workdir.prepare(config_in(tmp_path, resume=True))


def test_resume_is_of_the_same_run(tmp_path):
    workdir.prepare(config_in(tmp_path))
    with pytest.raises(UserError, match="--seed"):
        workdir.prepare(config_in(tmp_path, resume=True, seed=9))
    other = dataclasses.replace(config_in(tmp_path, resume=True), framework="torch")
    with pytest.raises(UserError, match="trained by jax, not torch"):
        workdir.prepare(other)
    with pytest.raises(UserError, match="no run"):
        workdir.prepare(config_in(tmp_path / "none", resume=True))


def changed(path, **fields):
    """The configuration in a directory, resumed with other values of some fields."""
    base, parts = config_in(path, resume=True), {}
    for part in ("model", "data", "optim", "run"):
        found = getattr(base, part)
        own = {name: value for name, value in fields.items() if hasattr(found, name)}
        parts[part] = dataclasses.replace(found, **own)
    return dataclasses.replace(base, **parts)


def test_a_refused_resume_names_both_values_and_a_way_out(tmp_path):
    workdir.prepare(config_in(tmp_path))
    with pytest.raises(UserError) as refused:
        workdir.prepare(changed(tmp_path, batch_size=64, flip=True, mean=(1.0,)))
    for words in ("--batch-size was 32, not 64", "--flip was off, not on", "--mean was 77.9, not",
                  f"--init-from {tmp_path} with another --workdir"):  # fmt: skip
        assert words in str(refused.value)
    with pytest.raises(UserError, match="--recipe was digits, not paper"):
        workdir.prepare(dataclasses.replace(changed(tmp_path), recipe="paper"))


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "plateau"])
@pytest.mark.parametrize("length", [{"epochs": 16.0}, {"epochs": None, "steps": 900}])
def test_the_length_may_change_unless_the_schedule_depends_on_it(schedule, length, tmp_path):
    """Half of a cosine over 8 epochs is another curve than the first quarter of one over 16."""
    workdir.prepare(dataclasses.replace(changed(tmp_path, schedule=schedule, resume=False)))
    workdir.prepare(changed(tmp_path, schedule=schedule, epochs=8.0))  # the same, given again
    if schedule == "cosine":
        with pytest.raises(UserError, match=r"--epochs was 8, not .* depends on the total"):
            workdir.prepare(changed(tmp_path, schedule=schedule, **length))
    else:
        workdir.prepare(changed(tmp_path, schedule=schedule, **length))
    rates = {
        learning_rate(changed(tmp_path, schedule=schedule).optim, 300, total_steps=total,
                      steps_per_epoch=44, eval_losses=[1.0])
        for total in (352, 704)
    }  # fmt: skip
    assert len(rates) == (2 if schedule == "cosine" else 1)


def test_what_leaves_the_numbers_alone_may_change_on_resume(tmp_path):
    """Bad images too: the run stopped at the first, so that none was skipped or counted before."""
    workdir.prepare(config_in(tmp_path))
    workdir.prepare(changed(tmp_path, on_bad_image="skip", log_every=3, loader_threads=5,
                            keep_checkpoints=9, checkpoint_every=1))  # fmt: skip


def test_a_directory_of_an_older_version_can_be_resumed(tmp_path):
    """One whose config.json has none of the fields added since."""
    workdir.prepare(config_in(tmp_path))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["devices"], values["optim"]["clip_norm"], values["digest"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    workdir.prepare(config_in(tmp_path, resume=True))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"model": 3, "nope": 1}', "[1]"])
def test_a_broken_configuration_is_a_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.read_config(tmp_path)


def test_resuming_drops_lines_after_the_checkpoint_and_a_cut_one(tmp_path):
    lines = [record(10), record(10, "eval"), record(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 30, "spl')
    assert metrics.read(tmp_path) == lines
    log = metrics.MetricsLog(tmp_path, metrics.kept(tmp_path, 10, None)[0])
    log.write(record(11))
    log.close()
    assert metrics.read(tmp_path) == [*lines[:2], record(11)]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("nonsense\n" + json.dumps(record(1)) + "\n")
    with pytest.raises(UserError, match="line 1"):
        metrics.read(tmp_path)


def test_a_name_that_is_no_text_is_refused_before_anything_is_made(tmp_path):
    """Orbax and the descriptions of checkpoints keep names in UTF-8."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match="is not UTF-8 text in this locale"):
        workdir.prepare(config_in(odd))
    assert not os.path.exists(odd)
