"""The user's folder for compiled programs and the like: private, bounded, done without."""

import json
import os

import pytest

from alexnet import engine, user_cache
from alexnet.errors import UserError
from tests.conftest import NARROW, run_train


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_folder_is_the_users_alone(tmp_path):
    before = os.umask(0o002)
    try:
        made = user_cache.own_folder("jax/some")
    finally:
        os.umask(before)
    assert made == tmp_path / "cache" / "alexnet" / "jax" / "some"
    for folder in (made, *made.parents[:2]):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_that_others_can_write_is_refused(above):
    made = user_cache.own_folder("jax/some")
    [made, *made.parents][above].chmod(0o777)
    with pytest.raises(UserError, match="to which other users can write"):
        user_cache.own_folder("jax/some")


def test_the_oldest_files_are_deleted(tmp_path):
    for age in range(5):
        (tmp_path / str(age)).write_bytes(bytes(100))
        os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
    user_cache.trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    user_cache.trim(tmp_path, 250)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_used_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "alexnet").write_text("a file")
    engine._keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert "compiled programs are not kept: " in capsys.readouterr().err


def test_a_run_keeps_what_it_compiles_and_takes_it_again(tmp_path, monkeypatch):
    """Nothing is added by the second run, whose losses are the same to the last bit."""
    pytest.importorskip("jax")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    losses, files = [], []
    for name in ("a", "b"):
        workdir = tmp_path / name
        run_train("--framework", "jax", *NARROW, "--steps", 2, "--workdir", workdir)
        losses.append([line["loss"] for line in lines(workdir)])
        files.append({file.name for file in (tmp_path / "cache").rglob("*-cache")})
    assert files[0] == files[1] != set()
    assert losses[0] == losses[1]
