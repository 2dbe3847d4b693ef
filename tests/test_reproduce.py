"""The table and the picture of `make reproduce-NAME`, of runs that are there."""

import os
import signal
import subprocess
import sys

from alexnet.recipes import RECIPES
from tests import reproduce
from tests.conftest import run_train


def test_every_experiment_has_recipes():
    for experiment in reproduce.EXPERIMENTS.values():
        assert set(experiment.recipes) <= RECIPES.keys()
        assert len(experiment.recipes) <= len(reproduce.STYLES)


def test_a_run_becomes_a_row_and_a_line(tmp_path, capsys):
    options = ["cifar-80sec", "--show", "--folder", str(tmp_path), "--seeds", "0"]
    assert reproduce.main(options) == 1
    assert "no run of cifar-80sec" in capsys.readouterr().out
    run_train(
        "--framework", "torch", "--recipe", "cifar-80sec", "--dataset", "synthetic", "--steps", 2,
        "--batch-size", 4, "--image-size", 8, "--workdir", tmp_path / "cifar-80sec-torch-0",
    )  # fmt: skip
    assert reproduce.main(options) == 0
    printed = capsys.readouterr().out
    assert "| `cifar-80sec` | torch | 0 | 0.0 | " in printed
    assert "26 % error in 80 seconds" in printed
    assert (tmp_path / "cifar-80sec.png").stat().st_size > 10_000


def test_epochs_to_an_error():
    curve = reproduce.Curve("figure1-relu", "jax", 0, [1.0, 2.0, 3.0], [0.4, 0.25, 0.2])
    assert reproduce.reached(curve, 0.25) == 2.0
    assert reproduce.reached(curve, 0.1) is None
    (row,) = reproduce.table([curve], 0.25)[2:]
    assert "| 3.0 | 20.00 % | 2.0 |" in row
    assert "not reached" in reproduce.table([curve], 0.1)[2]


def test_how_much_longer_the_second_of_a_pair_takes():
    experiment = reproduce.EXPERIMENTS["figure1"]
    first = reproduce.Curve("figure1-relu", "jax", 0, [1.0, 2.0, 3.0], [0.4, 0.25, 0.2])
    second = reproduce.Curve("figure1-tanh", "jax", 0, [1.0, 11.0], [0.4, 0.25])
    alone = reproduce.Curve("figure1-tanh", "torch", 0, [1.0, 11.0], [0.4, 0.25])
    (said,) = reproduce.ratios([first, second, alone], experiment)
    assert "takes 11 epochs and figure1-relu 2, 5.5 times as many; published: 25 %" in said
    slow = reproduce.Curve("figure1-tanh", "jax", 0, [1.0, 11.0], [0.4, 0.3])
    (said,) = reproduce.ratios([first, slow], experiment)
    assert "takes more than 11 epochs and figure1-relu 2, more than 5.5 times" in said
    assert reproduce.ratios([first, second], reproduce.EXPERIMENTS["lrn"]) == []


def test_ctrl_c_leaves_the_run_time_to_save(tmp_path):
    words = ["cifar-80sec", "--dataset", "synthetic", "--folder", tmp_path, "--frameworks", "torch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reproduce", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step "):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list((tmp_path / "cifar-80sec-torch-0/checkpoints").glob("*/meta.json"))


def test_a_shorter_schedule_keeps_its_proportions():
    assert reproduce.length("cifar-18pct", 1) == []
    words = ["--epochs", "14", "--drop-epochs", "12.0", "13.0"]
    assert reproduce.length("cifar-18pct", 10) == words
    options = reproduce.Options("lrn-short", folder="a")
    assert str(reproduce.workdir(options, "cifar-18pct", "jax", 1)) == "a/cifar-18pct-short-jax-1"


def test_means_over_seeds():
    curves = [
        reproduce.Curve("cifar-18pct", framework, seed, [1.0], [error])
        for framework, seed, error in (("jax", 0, 0.2), ("torch", 0, 0.5), ("jax", 1, 0.3))
    ]
    curves.append(reproduce.Curve("cifar-18pct", "jax", 2, [0.9], [0.9]))  # not at its end
    (said,) = reproduce.means(curves)
    expected = (
        "cifar-18pct, jax: 25.00 % over 2 seeds, from 20.00 to 30.00 %, standard deviation 7.07"
    )
    assert said == expected
