"""`alexnet train`, which `python train.py` is too."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet.config import DevicesConfig, ModelConfig, TrainConfig
from alexnet.errors import RunError, UserError
from alexnet.files import as_path
from alexnet.options import parse
from alexnet.output import say
from alexnet.preparation import check_one_mean
from alexnet.recipes import RECIPES, default_recipe, recipe

if TYPE_CHECKING:
    from alexnet.loop import Trainer

WORDS = {"recipe": tuple(RECIPES)}


@dataclass(frozen=True)
class Options:
    """A run's configuration, and how to say what came of it."""

    train: TrainConfig
    # The result as JSON; all else that is said goes to standard error.
    json: bool = False


def defaults(given: Mapping[str, Any], recipe_name: str | None = None) -> dict[str, TrainConfig]:
    """The configuration that the options given change.

    It is that of a recipe, or, with --resume, the one that the run began with. A length given as
    epochs takes the place of one in steps, and the other way round.

    Args:
        given: the options on the command line, by field name.
        recipe_name: the recipe where none is given; by default one that suits the data set.

    Raises:
        UserError: for an unknown recipe, or a run that can't be read.
    """
    check_one_mean(given.get("mean") is not None, given.get("mean_image"))
    if given.get("resume") and given.get("workdir") and "help" not in given:
        from alexnet.workdir import read_config  # slow, and not needed for --help

        base = read_config(as_path(given["workdir"]))
        base = dataclasses.replace(base, devices=DevicesConfig())
    else:
        name = given.get("recipe") or recipe_name or default_recipe(given.get("dataset"))
        base = _with_preprocessing(recipe(name), given)
    if given.get("steps") is not None or given.get("epochs") is not None:
        base = dataclasses.replace(base, run=dataclasses.replace(base.run, steps=None, epochs=None))
    return {"train": base}


def _with_preprocessing(base: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """A recipe with the preprocessing of the weights that a run begins with, if it does."""
    source = given.get("preprocess_from") or given.get("init_from")
    if not source or "help" in given:
        return base
    from alexnet.start import with_preprocessing_of  # slow, and for such runs only

    own = {f.name: given[f.name] for f in dataclasses.fields(ModelConfig) if f.name in given}
    model, data = dataclasses.replace(base.model, **own), base.data
    if len(data.mean) not in (1, model.channels):  # the recipe's: those of the weights take over
        data = dataclasses.replace(data, mean=data.mean[:1], std=data.std[:1])
    try:
        changed = dataclasses.replace(base, model=model, data=data)
        found = with_preprocessing_of(changed, source, given)
    except (UserError, RunError, OSError):
        if given.get("preprocess_from"):
            raise
        return base  # the run opens these weights again, and says what is wrong with them
    return found


def parse_train(argv: Sequence[str]) -> TrainConfig:
    """The configuration that a command line of `alexnet train` describes.

    Raises:
        UserError: for options that no run can have.
        SystemExit: after --help.
    """
    options = parse(Options, argv, prog="alexnet train", defaults=defaults, words=WORDS)
    if options is None:
        raise SystemExit(0)
    return options.train


def main(options: Options) -> int:
    """Train; the exit code is 0, or 128 + a signal's number after a stop that saved."""
    from alexnet.run import train

    if not options.json:
        return train(options.train)
    found: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(sys.stderr):
        code = train(options.train, lambda trainer: found.append(_result(trainer)))
    for one in found:  # none in the processes that others lead
        say(json.dumps(one, indent=2))
    return code


def _result(trainer: "Trainer") -> dict[str, Any]:
    """How far a run came, and the last line of its log of either kind."""
    from alexnet import metrics

    path = as_path(trainer.config.run.workdir or "")
    last = {record["split"]: record for record in metrics.read(path)}
    return {
        "workdir": str(path),
        "framework": trainer.config.framework,
        "step": trainer.step,
        "total_steps": trainer.plan.total_steps,
        "train": last.get("train"),
        "eval": last.get("eval"),
    }
