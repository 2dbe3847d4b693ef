"""`alexnet train`: trains a network; `python train.py` is the same command."""

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
    """A run's configuration, and the format of its result."""

    train: TrainConfig
    # Print the result as JSON; all other output goes to standard error.
    json: bool = False


def defaults(given: Mapping[str, Any], recipe_name: str | None = None) -> dict[str, TrainConfig]:
    """The base configuration, to which the options given are applied.

    It is a recipe's or, with --resume, the one that the run began with. A length given in epochs
    replaces one in steps, and vice versa.

    Args:
        given: the options on the command line, by field name.
        recipe_name: the recipe to use if none is given; by default one that suits the data set.

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
    """A recipe with the preprocessing of the weights that a run starts from, if any."""
    source = given.get("preprocess_from") or given.get("init_from")
    if not source or "help" in given:
        return base
    from alexnet.start import with_preprocessing_of  # slow, and only needed for such runs

    own = {f.name: given[f.name] for f in dataclasses.fields(ModelConfig) if f.name in given}
    model, data = dataclasses.replace(base.model, **own), base.data
    if len(data.mean) not in (1, model.channels):  # the recipe's: the weights' replace them
        data = dataclasses.replace(data, mean=data.mean[:1], std=data.std[:1])
    try:
        changed = dataclasses.replace(base, model=model, data=data)
        found = with_preprocessing_of(changed, source, given)
    except (UserError, RunError, OSError):
        if given.get("preprocess_from"):
            raise
        return base  # the run opens these weights again, and reports what is wrong
    return found


def parse_train(argv: Sequence[str]) -> TrainConfig:
    """The configuration that a command line of `alexnet train` describes.

    Raises:
        UserError: for options that are invalid for a run.
        SystemExit: after --help.
    """
    options = parse(Options, argv, prog="alexnet train", defaults=defaults, words=WORDS)
    if options is None:
        raise SystemExit(0)
    return options.train


def main(options: Options) -> int:
    """Train; return 0, or 128 + the signal's number if a signal stopped the run and it saved."""
    from alexnet.run import train

    if not options.json:
        return train(options.train)
    found: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(sys.stderr):
        code = train(options.train, lambda trainer: found.append(_result(trainer)))
    for one in found:  # empty in all processes but the first
        say(json.dumps(one, indent=2))
    return code


def _result(trainer: "Trainer") -> dict[str, Any]:
    """The step that a run reached, and the last record of each kind in its log."""
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
