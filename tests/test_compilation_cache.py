"""Compiled programs are taken only from a directory that nobody else can write."""

import os

import pytest

from alexnet.errors import UserError
from tests.conftest import NARROW, run_train

pytest.importorskip("jax")
from alexnet_jax.engine import check_cache


def test_ones_own_directory_is_taken(tmp_path):
    tmp_path.chmod(0o755)
    check_cache(str(tmp_path))
    check_cache(str(tmp_path / "not there yet"))
    check_cache("gs://bucket/cache")
    check_cache(None)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_that_others_can_write_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match="to which other users can write"):
        check_cache(str(tmp_path))


def test_another_users_directory_is_refused(tmp_path, monkeypatch):
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(UserError, match="a directory of your own"):
        check_cache(str(tmp_path))


def test_a_run_is_refused(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    result = run_train(
        "--framework", "jax", *NARROW, "--steps", 1, "--workdir", tmp_path / "run", check=2,
        env={"JAX_COMPILATION_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert f"chmod go-w '{cache}'" in result.stderr
    assert not list(cache.iterdir())
