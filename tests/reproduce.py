"""`make reproduce-NAME`: a published result of Krizhevsky's nets, trained again in both frameworks.

    python -m tests.reproduce NAME [--dataset D] [--seeds 0 1] [--frameworks torch jax]

A run that is there goes on where it stopped. Prints a table of what was reached beside what was
published, and draws the curves into FOLDER/NAME.png. docs/results.md has the outcome.
"""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from alexnet.errors import choose
from alexnet.metrics import read
from alexnet.options import POSITIONAL, parse
from alexnet.recipes import RECIPES

# Not from conftest.py, which makes several devices of a CPU and one thread for each process.
ROOT = Path(__file__).parents[1]
STEPS = 50_000 // 128  # of an epoch of CIFAR-10
COLORS = {"jax": "#0b6e99", "torch": "#c8553d"}
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Experiment:
    """The recipes of a result, and the drawing that shows it."""

    recipes: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    split: str = "eval"  # whose error counts
    goal: float | None = None  # the error that the paper's figure waits for
    shorten: int = 1  # divides the recipes' epochs, and those of their rates


EXPERIMENTS = {
    "cifar-80sec": Experiment(("cifar-80sec",), seeds=(0, 1, 2)),
    "cifar-18pct": Experiment(("cifar-18pct",)),
    "lrn": Experiment(("cifar-18pct", "cifar-19pct")),
    "lrn-short": Experiment(("cifar-18pct", "cifar-19pct"), seeds=(0, 1, 2), shorten=10),
    "figure1": Experiment(("figure1-relu", "figure1-tanh"), split="train", goal=0.25),
}


@dataclass(frozen=True)
class Options:
    """The result, its data, and where runs go."""

    # cifar-80sec, cifar-18pct, lrn (with and without normalization), lrn-short (a tenth of its
    # epochs, three seeds) or figure1.
    name: str = field(metadata=POSITIONAL)
    # CIFAR-10; its cache by `alexnet prepare tfds:cifar10 DIR --size 32` saves most of the reading.
    dataset: str = "tfds:cifar10"
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Folder of the runs and of the picture.
    folder: str = "runs/reproduce"
    # By default those of the experiment.
    seeds: tuple[int, ...] = ()
    frameworks: tuple[str, ...] = ("torch", "jax")
    # Train nothing: show what is there.
    show: bool = False


@dataclass(frozen=True)
class Curve:
    """A run's errors after each epoch."""

    recipe: str
    framework: str
    seed: int
    epochs: list[float]
    errors: list[float]


def workdir(options: Options, recipe: str, framework: str, seed: int) -> Path:
    """The folder of one run."""
    short = "-short" if EXPERIMENTS[options.name].shorten > 1 else ""
    return Path(options.folder) / f"{recipe}{short}-{framework}-{seed}"


def length(recipe: str, shorten: int) -> list[str]:
    """The options of a schedule that is so many times shorter; none for the recipe's own."""
    config = RECIPES[recipe].config
    if shorten == 1 or config.run.epochs is None:
        return []
    drops = (str(epoch / shorten) for epoch in config.optim.drop_epochs)
    return ["--epochs", str(config.run.epochs // shorten), "--drop-epochs", *drops]


def train(options: Options, recipe: str, framework: str, seed: int) -> int:
    """Train, or go on; the exit code, which isn't 0 where a signal ended it."""
    target = workdir(options, recipe, framework, seed)
    begun = (target / "config.json").exists()
    where = ["--data-dir", options.data_dir] if options.data_dir else []
    command = [
        sys.executable, str(ROOT / "train.py"), "--framework", framework, "--recipe", recipe,
        "--seed", str(seed), "--dataset", options.dataset, *where, "--workdir", str(target),
        *length(recipe, EXPERIMENTS[options.name].shorten), *(["--resume"] if begun else []),
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the run has got it too, and saves
                return process.wait()


def curve(options: Options, recipe: str, framework: str, seed: int) -> Curve | None:
    """A run's errors; of training the mean of each whole epoch's lines. None without any."""
    target = workdir(options, recipe, framework, seed)
    if not target.exists():
        return None
    split = EXPERIMENTS[options.name].split
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for record in read(target):
        if record["split"] == split:
            by_epoch.setdefault(-(-record["step"] // STEPS), []).append(record)
    if split == "train":  # without the epoch that a run is in
        by_epoch = {n: own for n, own in by_epoch.items() if own[-1]["step"] % STEPS == 0}
    if not by_epoch:
        return None
    errors = [1 - mean(one["top1"] for one in own) for own in by_epoch.values()]
    ends = [own[-1]["step"] / STEPS for own in by_epoch.values()]
    return Curve(recipe, framework, seed, ends, errors)


def reached(curve: Curve, goal: float) -> float | None:
    """The epochs that a curve takes to an error; None where it ends above."""
    found = (e for e, error in zip(curve.epochs, curve.errors, strict=True) if error <= goal)
    return next(found, None)


def table(curves: Sequence[Curve], goal: float | None) -> list[str]:
    """Lines of Markdown: a run each, beside what is published."""
    to_goal = f" epochs to {goal:.0%} |" if goal else ""
    lines = [
        f"| recipe | framework | seed | epochs | error |{to_goal} published |",
        "|---|---|---|---|---|" + ("---|" if goal else "") + "---|",
    ]
    for one in curves:
        found = reached(one, goal) if goal else None
        cell = f" {found:.1f} |" if found else " not reached |"
        lines.append(
            f"| `{one.recipe}` | {one.framework} | {one.seed} | {one.epochs[-1]:.1f} | "
            f"{100 * one.errors[-1]:.2f} % |" + (cell if goal else "")
            + f" {RECIPES[one.recipe].published} |"
        )  # fmt: skip
    return lines


def ratios(curves: Sequence[Curve], experiment: Experiment) -> list[str]:
    """Sentences on how much longer the second recipe takes to the goal than the first, by run."""
    goal, by_run = experiment.goal, {(one.recipe, one.framework, one.seed): one for one in curves}
    found = []
    for (recipe, framework, seed), one in by_run.items():
        other = by_run.get((experiment.recipes[-1], framework, seed))
        if goal is None or recipe != experiment.recipes[0] or other is None:
            continue
        if (first := reached(one, goal)) is not None:
            second, least = reached(other, goal), ""
            if second is None:
                second, least = other.epochs[-1], "more than "
            found.append(
                f"{framework}, seed {seed}: to {goal:.0%} {other.recipe} takes {least}{second:.0f} "
                f"epochs and {recipe} {first:.0f}, {least}{second / first:.1f} times as many; "
                f"published: {RECIPES[recipe].published}"
            )
    return found


def means(curves: Sequence[Curve]) -> list[str]:
    """Sentences on the last errors of each recipe over several seeds, of whole runs."""
    found, whole = [], max(one.epochs[-1] for one in curves)
    for recipe, framework in dict.fromkeys((one.recipe, one.framework) for one in curves):
        own = [
            100 * one.errors[-1]
            for one in curves
            if (one.recipe, one.framework, one.epochs[-1]) == (recipe, framework, whole)
        ]
        if len(own) > 1:
            found.append(
                f"{recipe}, {framework}: {mean(own):.2f} % over {len(own)} seeds, from "
                f"{min(own):.2f} to {max(own):.2f} %, standard deviation {stdev(own):.2f}"
            )
    return found


def picture(curves: Sequence[Curve], experiment: Experiment, path: Path) -> None:
    """Errors by epoch: a color a framework, a line a recipe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    plot = figure.subplots()
    for one in curves:
        style = STYLES[experiment.recipes.index(one.recipe)]
        label = f"{one.recipe}, {one.framework}" if one.seed == experiment.seeds[0] else None
        errors = [100 * error for error in one.errors]
        plot.plot(
            one.epochs, errors, style, color=COLORS[one.framework], label=label, linewidth=1.2
        )
    if experiment.goal:
        plot.axhline(100 * experiment.goal, color="gray", linewidth=0.8, linestyle="--")
    plot.set_xlabel("epochs")
    kind = "training" if experiment.split == "train" else "test"
    plot.set_ylabel(f"CIFAR-10 {kind} error, %")
    plot.grid(alpha=0.3)
    plot.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str]) -> int:
    """Train what is missing; print the table and draw the picture."""
    options = parse(Options, argv, prog="python -m tests.reproduce", description=__doc__ or "")
    experiment = EXPERIMENTS[choose("result", options.name, EXPERIMENTS)]
    runs = [
        (recipe, framework, seed)
        for seed in options.seeds or experiment.seeds
        for recipe in experiment.recipes
        for framework in options.frameworks
    ]
    for run in () if options.show else runs:
        if code := train(options, *run):
            return code
    curves = [one for run in runs if (one := curve(options, *run)) is not None]
    if not curves:
        print(f"no run of {options.name} is in {options.folder}")
        return 1
    said = [*means(curves), *ratios(curves, experiment)]
    print("\n".join([*table(curves, experiment.goal), "", *said]))
    drawn = Path(options.folder) / f"{options.name}.png"
    picture(curves, experiment, drawn)
    print(f"curves: {drawn}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
