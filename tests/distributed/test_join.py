"""A process whose companions don't come ends after the time that it was given."""

import pytest

from tests.conftest import NARROW, run_train
from tests.distributed.launch import free_port


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_come_are_waited_for_as_long_as_told(process, tmp_path):
    pytest.importorskip("jax")
    result = run_train(
        "--framework", "jax", *NARROW, "--workdir", tmp_path / "run", "--distributed",
        "--coordinator", f"localhost:{free_port()}", "--processes", 2, "--process", process,
        "--join-seconds", 2, check=2,
    )  # fmt: skip
    assert "error: the other processes did not come within 2 s (--join-seconds): " in result.stderr
    assert "check that the same command runs on every worker" in result.stderr
