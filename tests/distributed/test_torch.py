"""Two torch processes under torchrun, over gloo, make one run."""

import pytest

from tests.conftest import run_train
from tests.distributed.launch import (
    OPTIONS,
    apart,
    output_of,
    records,
    statistics_apart,
    torchrun,
    wait_for_step,
)

pytestmark = pytest.mark.slow
BOUND = 1e-5
STEPS = ("--steps", 12, "--eval-every", 6)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "run"
    run_train("--framework", "torch", "--workdir", path, *OPTIONS, *STEPS)
    return path


def test_two_processes_are_one(one_process, tmp_path):
    output = output_of(torchrun(tmp_path / "run", *STEPS))
    distance = apart(tmp_path / "run", one_process)
    print(f"2 processes by DistributedDataParallel: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND
    for index in (0, 1):
        assert f"process {index} of 2, gloo" in output
    assert output.count("(359 examples)") == 3
    assert {record["count"] for record in records(tmp_path / "run", "eval")} == {359}


def test_two_processes_in_two_parts_are_one(one_process, tmp_path):
    output_of(torchrun(tmp_path / "run", "--accumulate", 2, *STEPS))
    distance = apart(tmp_path / "run", one_process)
    print(f"2 processes, each batch in 2 parts: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND


def test_two_processes_share_batch_norms_statistics(tmp_path):
    """Variant bn: means and variances of the global batch, in loss, evaluation and weights."""
    options = ("--variant", "bn", "--learning-rate", 1e-4, *STEPS)
    run_train("--framework", "torch", "--workdir", tmp_path / "one", *OPTIONS, *options)
    output_of(torchrun(tmp_path / "two", *options))
    distance = apart(tmp_path / "two", tmp_path / "one")
    print(f"bn, 2 processes by DistributedDataParallel: {distance:.1e} (bound {BOUND:.0e})")
    assert distance < BOUND
    assert statistics_apart(tmp_path / "two", tmp_path / "one") < BOUND


def test_sigterm_saves_and_one_process_goes_on(one_process, tmp_path):
    path = tmp_path / "run"
    running = torchrun(path, *STEPS)
    wait_for_step(path, 3, [running])
    running.terminate()  # torchrun hands it on to both
    output = output_of(running, code=None)
    (step,) = (int(p.name) for p in (path / "checkpoints").iterdir())
    assert f"stopped at step {step}; --resume" in output
    assert step < 12
    run_train("--framework", "torch", "--workdir", path, "--resume")
    assert apart(path, one_process) < BOUND


def test_control_the_mean_over_processes_is_noticed(one_process, tmp_path):
    """Gradients half as large, as a forgotten factor would make them."""
    path = tmp_path / "run"
    run_train("--framework", "torch", "--workdir", path, *OPTIONS, *STEPS,
              "--learning-rate", 0.01)  # fmt: skip
    with pytest.raises(AssertionError):
        assert apart(path, one_process) < 10 * BOUND


def test_a_batch_that_processes_cant_share_is_refused(tmp_path):
    output = output_of(torchrun(tmp_path / "run", "--batch-size", 15, *STEPS), code=1)
    assert "--batch-size 15 can't be shared evenly by 2 processes" in output
