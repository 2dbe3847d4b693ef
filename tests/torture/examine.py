"""All that can be read from a run, and what of it may differ once its files are damaged.

Each part is either exactly as written or refused in one sentence that names the file; a damaged
checkpoint is passed over for one that is whole. Anything else is silent corruption.
"""

import contextlib
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet import metrics, workdir
from alexnet.checkpoints import STATE, Checkpoints, checkpoint_path, read_meta, saved_steps
from alexnet.config import TrainConfig
from alexnet.data import mean_image
from alexnet.engine import import_framework
from alexnet.errors import RunError, UserError
from alexnet.trained import open_weights
from alexnet.weights import Weights
from tests.torture.cases import assert_one_sentence
from tests.torture.runs import KINDS, assert_same_run, framework_of, names, reference, tail
from tests.torture.zygote import Zygote

HANG = 30  # seconds
BY_COMMAND = 100  # of so many cases, one of each kind is resumed by the command


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """An error in place of a hang."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@dataclass(frozen=True)
class Whole:
    """An undamaged run, and all that can be read from it."""

    path: Path
    framework: str
    config: TrainConfig
    records: list[dict]
    states: dict[int, tuple[dict, dict]]  # by step: what a checkpoint says, and its arrays
    weights: Weights

    @classmethod
    def of(cls, folder: Path, kind: str) -> "Whole":
        """The reference run of a kind."""
        path = reference(folder, kind)
        config = workdir.read_config(path)
        states = {}
        for step in saved_steps(path / workdir.CHECKPOINTS):
            here = checkpoint_path(path / workdir.CHECKPOINTS, step)
            meta = read_meta(here)
            states[step] = (meta, arrays_in(here / STATE, config, meta))
        weights = open_weights(path / workdir.WEIGHTS)
        return cls(path, framework_of(kind), config, metrics.read(path), states, weights)


def arrays_in(state: Path, config: Any, meta: dict) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, as the framework reads them."""
    native = import_framework(config.framework, "checkpoint")
    parts = native.read_arrays(state, config.spec(meta["num_classes"]))
    return {
        f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()
    }


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Tell whether arrays are the same bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def examine(path: Path, whole: Whole) -> Counter:
    """Read all of a run that may be damaged; what came of it, unless something came back wrong."""
    checks = (_config, _checkpoints, _older, _metrics, _weights)
    with no_longer_than(HANG):
        return Counter(found for check in checks if (found := check(path, whole)))


def refusal(read: Callable[[], Any], *expected: str) -> tuple[Any, str | None]:
    """What was read, or the word for a refusal whose sentence names one of the expected files."""
    try:
        return read(), None
    except (UserError, RunError) as error:
        text = str(error)
    assert any(name in text for name in expected), f"the error names no file: {text}"
    assert_one_sentence(text)
    return None, f"{expected[0]} refused"


def _config(path: Path, whole: Whole) -> str | None:
    found, refused = refusal(lambda: workdir.read_config(path), workdir.CONFIG)
    if refused:
        return refused
    preprocess, refused = refusal(lambda: found.preprocess, mean_image.FILE)
    found, was = _elsewhere(found), _elsewhere(whole.config)
    assert found == was, "config.json came back changed, silently"
    assert refused or preprocess == whole.config.preprocess, "another mean image, silently"
    return refused


def _elsewhere(config: TrainConfig) -> TrainConfig:
    """A configuration without the place of the run's mean image, if it has one."""
    image = config.data.mean_image and mean_image.FILE
    return replace(config, data=replace(config.data, mean_image=image))


def _metrics(path: Path, whole: Whole) -> str | None:
    """The log as it is read, and as a resumed run keeps it."""
    found, refused = refusal(lambda: metrics.read(path), metrics.METRICS, metrics.DIGESTS)
    last = max(whole.states)
    digest = whole.states[last][0]["log"]
    resumed, lost = refusal(lambda: metrics.kept(path, last, digest), metrics.METRICS)
    if lost:
        return lost
    kept, problem = resumed
    assert problem or kept == whole.records, "another log is gone on with, silently"
    assert metrics.METRICS in problem or not problem, f"the sentence names no file: {problem}"
    if refused or found == whole.records:
        return refused or ("the log is told of on resuming" if problem else None)
    # Lines at the end that were never written are no damage to those before.
    assert found == whole.records[: len(found)], "metrics.jsonl came back changed, silently"
    assert problem, "lines of metrics.jsonl are gone, silently"
    return "lost lines are told of on resuming"


def _weights(path: Path, whole: Whole) -> str | None:
    found, refused = refusal(lambda: open_weights(path / workdir.WEIGHTS), workdir.WEIGHTS)
    if refused:
        return refused
    mine, theirs = found, whole.weights
    assert equal(mine.arrays, theirs.arrays), "weights came back changed, silently"
    for part in ("spec", "preprocess", "class_names", "source"):
        assert getattr(mine, part) == getattr(theirs, part), f"{part} of the weights changed"
    return None


def _checkpoints(path: Path, whole: Whole) -> str | None:
    directory, warnings, seen = path / workdir.CHECKPOINTS, [], []

    def read(state: Path) -> None:
        meta = whole.states[max(whole.states)][0]
        seen.append(arrays_in(state, whole.config, meta))

    checkpoints = Checkpoints(directory, 2, lambda *_: None)
    meta, refused = refusal(lambda: checkpoints.restore(read, warnings.append), "checkpoint")
    if refused:
        return refused
    assert meta is not None, "the checkpoints are gone, silently"
    step = meta["step"]
    assert step in whole.states, f"a checkpoint of step {step} came back"
    assert meta == whole.states[step][0], f"meta.json of step {step} came back changed, silently"
    assert equal(seen[-1], whole.states[step][1]), f"state of step {step} came back changed"
    if step == max(whole.states):
        return None
    assert any(checkpoint_path(directory, max(whole.states)).name in text for text in warnings), (
        f"fell back to step {step} without a word: {warnings}"
    )
    return "fell back"


def _older(path: Path, whole: Whole) -> str | None:
    """Checkpoints that are read only once later ones are lost."""
    word = None
    for step in sorted(whole.states)[:-1]:
        here = checkpoint_path(path / workdir.CHECKPOINTS, step)
        try:
            meta = read_meta(here)
        except ValueError:
            word = "older checkpoint refused"
            continue
        assert meta == whole.states[step][0], f"meta.json of step {step} changed, silently"
        arrays = arrays_in(here / STATE, whole.config, meta)
        assert equal(arrays, whole.states[step][1]), f"state of step {step} changed, silently"
    return word


def resume(path: Path, whole: Whole, zygote: Zygote, log: Path) -> str:
    """Resume by the command: it ends as the run that nothing damaged, or says in a line why not."""
    before = names(path)
    code = zygote.run(["train", "--resume", "--workdir", path], log)
    text = log.read_text()
    assert "Traceback" not in text, f"a traceback: {tail(log)}"
    if code == 0:
        lost = "metrics" in text
        put_aside = {name for name in names(path) if "damaged" in name}
        for name in put_aside | (before - names(whole.path)):
            _remove(path / name)
        assert_same_run(path, whole.path, with_metrics=not lost)
        return "resumed, with a word on the log" if lost else "resumed by the command"
    assert code in (1, 2), f"resuming ended with {code}: {tail(log)}"
    assert "json" in text or "checkpoint" in text, f"the error names no file: {tail(log)}"
    return "refused by the command"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def try_both(case, path: Path, whole: Whole, zygotes: dict[str, Zygote], what: str) -> Counter:
    """Examine a damaged run, or, in one case of `BY_COMMAND`, resume it by the command.

    `what` was done to it; an error says so.
    """
    try:
        if case.index % BY_COMMAND < len(KINDS):
            zygote = zygotes.setdefault(whole.framework, Zygote(whole.framework))
            return Counter([resume(path, whole, zygote, case.folder / "log")])
        return examine(path, whole) or Counter(["no harm done"])
    except Exception as error:
        error.add_note(what)
        raise
