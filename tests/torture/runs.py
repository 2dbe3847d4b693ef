"""Narrow training runs, and what must be equal in two that are the same run."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from alexnet.commands.train import parse_train
from alexnet.init import initial_weights
from alexnet.weights import Weights, save
from tests.torture.zygote import Zygote

FRAMEWORKS = ("jax", "torch")
OPTIONS = (
    "--batch-size", "4", "--flip", "--steps", "12", "--warmup-steps", "5",
    "--learning-rate", "0.05", "--eval-every", "4", "--checkpoint-every", "3", "--log-every", "1",
)  # fmt: skip
SMALL = ("--width", "0.03", "--image-size", "64")
# Runs that are read in full: of either framework the default network; that of 2012 with all it has
# that others have not, a mean image and rates of its own for each layer; and one for CIFAR-10, that
# begins with weights.
NETWORKS = {
    "": SMALL,
    "-2012": (*SMALL, "--variant", "krizhevsky2012", "--rate-of", "conv1=0.1", "bias=2"),
    "-cifar": ("--variant", "cifar_18pct", "--width", "0.25"),
}
KINDS = tuple(framework + network for network in NETWORKS for framework in FRAMEWORKS)


def framework_of(kind: str) -> str:
    """The framework of a kind of run."""
    return kind.partition("-")[0]


def reference(folder: Path, kind: str) -> Path:
    """The work directory of a whole run, made once for all campaigns."""
    return folder / "reference" / kind


def changes(folder: Path, kind: str) -> Path:
    """The list of all that the whole run did to its files, in order."""
    return folder / "reference" / f"{kind}.changes"


def make_references(folder: Path) -> None:
    """Train the whole runs of the default network, unless they are there."""
    _make(folder, FRAMEWORKS)


def make_all_references(folder: Path) -> None:
    """Train the whole runs of every kind, unless they are there."""
    _make(folder, KINDS)


def _make(folder: Path, kinds: tuple[str, ...]) -> None:
    missing = [kind for kind in kinds if not reference(folder, kind).is_dir()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_make_one, folder), missing))


def _make_one(folder: Path, kind: str) -> None:
    path, log = reference(folder, kind), folder / f"{kind}.log"
    path.parent.mkdir(exist_ok=True)
    words, into = begin_or_resume(path, kind), str(changes(folder, kind))
    code = Zygote(framework_of(kind)).run(words, log, trace=into, folder=str(path))
    assert code == 0, tail(log)


def begin_or_resume(path: Path, kind: str) -> list:
    """The command line of somebody whose run was cut short: words after `alexnet`."""
    words = ["train", "--workdir", path]
    if (path / "config.json").exists():
        return [*words, "--resume"]
    framework = framework_of(kind)
    network = kind.removeprefix(framework)
    words += ["--framework", framework, *OPTIONS, *NETWORKS[network]]
    given = path.parent / f"{path.name}{'.npy' if network == '-2012' else '.safetensors'}"
    if network == "-2012":
        np.save(given, np.random.default_rng(0).uniform(90, 140, (64, 64, 3)))
        words += ["--mean-image", given]
    if network == "-cifar":
        config = parse_train([str(word) for word in words[1:]])
        spec = config.spec(10)
        save(given, Weights(initial_weights(spec, 1), spec, config.preprocess))
        words += ["--init-from", given]
    return words


def records(path: Path) -> list[dict]:
    """The lines of metrics.jsonl without the one thing that is not reproducible."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "examples_per_second"} for line in lines
    ]


def assert_same_run(
    path: Path, whole: Path, with_metrics: bool = True, with_steps: bool = True
) -> None:
    """Assert that a run left what an uninterrupted one did: metrics, weights, and no other file.

    Without `with_steps` it may have checkpoints of other steps, as one that a signal stopped has.
    """
    ours, theirs = records(path), records(whole)
    assert ours == theirs or not with_metrics, f"metrics: {_steps(ours)}, not {_steps(theirs)}"
    weights = [(one / "weights.safetensors").read_bytes() for one in (path, whole)]
    # the name of the run is in the file
    assert _arrays(weights[0]) == _arrays(weights[1]), "the final weights differ"
    differ = names(path) ^ names(whole)
    if not with_steps:
        differ = {name for name in differ if not re.fullmatch("checkpoints/[0-9]{8}", name)}
    assert not differ, f"files: {differ}"


def names(path: Path) -> set[str]:
    """A run's files, those of TensorBoard and of a checkpoint's inside aside."""
    found = {str(one.relative_to(path)) for one in path.rglob("*")}
    inside = ("tensorboard/", "checkpoints/")
    own = {name for name in found if not name.startswith(inside) or name.count("/") == 1}
    return {name for name in own if not name.startswith("tensorboard/events.")}


def _arrays(data: bytes) -> bytes:
    """All bytes behind a safetensors header."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _steps(lines: list[dict]) -> str:
    return " ".join(f"{line['step']}{line['split'][0]}" for line in lines)


def finish(zygote: Zygote, path: Path, kind: str, log: Path) -> None:
    """Resume a run to its end."""
    code = zygote.run(begin_or_resume(path, kind), log)
    assert code == 0, f"resuming ended with {code}: {tail(log)}"
    assert "Traceback" not in log.read_text()


def tail(log: Path) -> str:
    """The last of what a process said."""
    return os.fsdecode(log.read_bytes()[-1200:])
