"""The `alexnet` command and its subcommands; parses, calls, and turns errors into sentences."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from alexnet.config import CHOICES, DevicesConfig, TrainConfig
from alexnet.errors import RunError, UserError, choose
from alexnet.files import as_path
from alexnet.spec import VARIANTS, variant

if TYPE_CHECKING:
    from alexnet.weights import Weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 done, 2 wrong use, 1 failed, 143 ended by SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_usage())
            return 0 if argv else 2
        command = COMMANDS[choose("command", argv[0], COMMANDS)]
        return command(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        wrong_use = isinstance(error, FileNotFoundError | PermissionError)
        print(
            f"{'error' if wrong_use else 'failed'}: {error.filename}: {error.strerror}",
            file=sys.stderr,
        )
        return 2 if wrong_use else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _usage() -> str:
    lines = ["usage: alexnet COMMAND [OPTIONS]", "", "AlexNet in JAX and in PyTorch.", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:10} {command.__doc__.splitlines()[0]}")
    return "\n".join([*lines, "", "alexnet COMMAND --help tells a command's options."])


def train(argv: Sequence[str]) -> int:
    """Train a network, or go on with a run."""
    config = parse_train(argv)
    from alexnet.run import train as run

    return run(config)


def parse_train(argv: Sequence[str]) -> TrainConfig:
    """The configuration that a command line describes.

    Options change a recipe's values, or, with --resume, those that the run began with.

    Raises:
        UserError: for values that no run can have.
    """
    import tyro

    from alexnet.recipes import RECIPES, default_recipe, recipe

    early = _early_options(argv)
    name = early.recipe or default_recipe(early.dataset)
    if early.resume and early.workdir and not early.help:
        from alexnet.workdir import read_config  # not needed for --help, and slow

        default = dataclasses.replace(read_config(as_path(early.workdir)), devices=DevicesConfig())
    else:
        default = recipe(name)
    default = _without_length(default) if early.steps or early.epochs else default
    known = "; ".join(f"{name}: {r.result}" for name, r in RECIPES.items())
    return tyro.cli(
        TrainConfig,
        prog="train.py",
        description=f"Train AlexNet. Defaults shown are those of recipe '{name}'. {known}.",
        args=list(argv),
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        registry=_with_remote_paths(),
    )


def _with_remote_paths() -> Any:
    """tyro's rules, and one for paths: as a `pathlib.Path`, gs://BUCKET would lose a slash."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def path_rule(info: Any) -> PrimitiveConstructorSpec | None:
        if info.type is not PurePath:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: as_path(words[0]),
            is_instance=lambda value: isinstance(value, PurePath),
            str_from_instance=lambda path: [str(path)],
        )

    return registry


def _early_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options that decide which values the others change."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--recipe", "--dataset", "--workdir", "--steps", "--epochs"):
        parser.add_argument(option, nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    return parser.parse_known_args(list(argv))[0]


def _without_length(config: TrainConfig) -> TrainConfig:
    """The configuration without its epochs or steps, for a command line that brings its own."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, epochs=None, steps=None))


def summary(argv: Sequence[str]) -> int:
    """Print a network's layers: output shapes, parameters, multiply-adds."""
    parser = _parser("summary", summary)
    parser.add_argument("--variant", default="torchvision", help=f"one of {', '.join(VARIANTS)}")
    parser.add_argument("--framework", default="jax", help="jax or torch (as torchinfo prints it)")
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the last layer")
    parser.add_argument("--channels", type=int, default=3, help="3 for RGB, 1 for gray")
    parser.add_argument("--image-size", type=int, help="by default the variant's own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    choose("--framework", options.framework, CHOICES["framework"])
    spec = variant(
        options.variant,
        num_classes=options.num_classes,
        channels=options.channels,
        image_size=options.image_size,
    )
    from alexnet.engine import import_framework
    from alexnet.report.summary import print_table, summary_json, summary_rows

    native = import_framework(options.framework, "inspection")
    if not options.json and native.print_native(spec):
        return 0
    whole = summary_json(spec, summary_rows(spec, native.output_shapes(spec)), options.framework)
    if options.json:
        print(json.dumps(whole, indent=2))
    else:
        print_table(whole)
    return 0


def compile_tpu(argv: Sequence[str]) -> int:
    """Compile the training step for a Cloud TPU slice, with no TPU present."""
    parser = _parser("compile", compile_tpu)
    parser.epilog = (
        "All other options are those of `alexnet train`, with recipe torchvision unless told: they "
        "say which step. --batch-size is over all chips."
    )
    parser.add_argument("--topology", required=True, help="the slice: v5e:4x4, v4:2x2x2, ...")
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the last layer")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options, train_options = parser.parse_known_args(argv)
    config = parse_train(["--recipe", "torchvision", *train_options])
    # Before JAX starts: its host has no TPU, and what is compiled for one can't be cached here.
    os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_COMPILATION_CACHE="false")
    from alexnet.config import check
    from alexnet.engine import import_framework
    from alexnet.report.compiled import print_compiled

    check(config)
    if config.framework != "jax":
        raise UserError("--framework torch can't be compiled for a TPU here: leave it out")
    topology = import_framework("jax", "topology")
    report = topology.compile_step(config, options.num_classes, options.topology)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_compiled(report)
    return 0 if report["memory"]["fits"] else 1


def convert(argv: Sequence[str]) -> int:
    """Convert weights between file formats, or a run between frameworks."""
    from alexnet.weights import FORMATS

    parser = _parser("convert", convert)
    parser.add_argument(
        "source", type=as_path, help="a weights file, a run's work directory, or its checkpoint"
    )
    parser.add_argument("target", type=as_path, help="a weights file, or a new work directory")
    formats = ", ".join(FORMATS)
    parser.add_argument("--from", dest="source_format", help=f"told from the content: {formats}")
    parser.add_argument(
        "--to", dest="target_format", help="told from the name; for a run also jax or torch"
    )
    parser.add_argument("--step", type=int, help="checkpoint of a run; the last by default")
    parser.add_argument("--variant", help="the network, for files that leave it open")
    parser.add_argument("--image-size", type=int, help="its input, for files that leave it open")
    parser.add_argument("--to-variant", help="become another variant, where that is exact")
    parser.add_argument(
        "--fold", action="store_true", help="mean and scale into conv1, for torchvision's input"
    )
    parser.add_argument("--verify", action="store_true", help="run both frameworks and compare")
    parser.add_argument("--images", type=Path, help="photographs for --verify, a folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(argv))
    verify, images, as_json = (options.pop(name) for name in ("verify", "images", "json"))
    from rich.console import Console

    from alexnet import porting

    with Console(stderr=True).status(f"converting {options['source']}"):  # on a terminal only
        whole, sentence = porting.convert(**options)
    report: dict[str, Any] = {"done": sentence}
    if not as_json:
        print(sentence)
    if verify:
        report["verify"] = _verify(whole, options, images, as_json)
    if as_json:
        print(json.dumps(report, indent=2))
    return 0 if not verify or report["verify"]["passed"] else 1


def _verify(
    whole: "Weights", options: dict[str, Any], images: Path | None, as_json: bool
) -> dict[str, Any]:
    """Compare a conversion's result, read back, with its source."""
    from alexnet import porting, weights
    from alexnet.report.verify import print_verification, verify

    target = options["target"]
    if porting.is_run(target):
        back = porting.run_weights(porting.read_run(target), target)
    else:
        spec = whole.spec
        back = weights.load(target, variant=spec.name, image_size=spec.image_size)
    result = verify(whole, back, images)
    if not as_json:
        print_verification(result)
    return result


def doctor(argv: Sequence[str]) -> int:
    """Check versions, devices, data, disk and memory for a run, before it starts."""
    parser = _parser("doctor", doctor)
    parser.epilog = "All other options are those of `alexnet train`: they say which run."
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, train_options = parser.parse_known_args(argv)
    config = parse_train(train_options)
    from rich.console import Console

    from alexnet.config import check
    from alexnet.doctor.examine import examine
    from alexnet.report.doctor import findings_json, passed, print_findings

    check(config)
    with Console(stderr=True).status("looking"):  # on a terminal only
        findings = examine(config)
    if options.json:
        print(json.dumps(findings_json(findings), indent=2))
    else:
        print_findings(findings)
    return 0 if passed(findings) else 1


def _parser(name: str, command: Callable) -> argparse.ArgumentParser:
    doc = command.__doc__.splitlines()[0]
    return argparse.ArgumentParser(prog=f"alexnet {name}", description=doc, allow_abbrev=False)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "convert": convert,
    "summary": summary,
    "doctor": doctor,
    "compile": compile_tpu,
}
