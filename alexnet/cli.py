"""The `alexnet` command: finds the subcommand, and turns errors into sentences and exit codes."""

import contextlib
import importlib
import sys
from collections.abc import Sequence

from alexnet import output
from alexnet.errors import RunError, UserError, choose
from alexnet.options import parse
from alexnet.text import printable

# Each is a module in alexnet/commands/, imported when it is called.
COMMANDS = {
    "train": "Train a network, or resume a run.",
    "evaluate": "Measure accuracy on a data set, by any of the published protocols.",
    "predict": "Tell the classes of photographs.",
    "convert": "Convert weights between file formats, or a run between frameworks.",
    "prepare": "Copy a data set into a cache that training reads many times faster.",
    "push": "Upload a Hugging Face folder to the hub.",
    "summary": "Print a network's layers: output shapes, parameters, multiply-adds.",
    "recipes": "List the training recipes, with their sources and results.",
    "report": "Show runs in one HTML page: curves, filters, confusions, predictions.",
    "bench": "Measure speed and memory, beside plain code in the same framework.",
    "compile": "Compile the training step for a Cloud TPU slice, with no TPU present.",
    "doctor": "Check versions, devices, data, disk and memory for a run, before it starts.",
}
_MOST = 2000  # characters of a message


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command.

    Args:
        argv: the command's name and its options; by default the process's own.
        prog: name for the command in help and messages; by default `alexnet COMMAND`.

    Returns:
        The exit code: 0 success, 2 wrong use, 1 failure, 130 and 143 ended by SIGINT and SIGTERM.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv, prog)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _say("error", str(error), 2)
    except RunError as error:
        return _say("failed", str(error), 1)
    except MemoryError as error:
        return _say("failed", f"not enough memory: {error}".removesuffix(": "), 1)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            reason = output.lost(error)
            if reason is None:
                raise
            silent = isinstance(reason, BrokenPipeError)  # as expected with `| head`
            return 1 if silent else _say("failed", output.sentence(reason), 1)
        wrong_use = isinstance(error, FileNotFoundError | PermissionError)
        sentence = f"{error.filename}: {error.strerror}"
        return _say("error", sentence, 2) if wrong_use else _say("failed", sentence, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: Sequence[str], prog: str | None) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        import alexnet

        print(f"alexnet {alexnet.__version__}")
        return 0
    name = choose("command", argv[0], COMMANDS)
    command = importlib.import_module(f"alexnet.commands.{name}")
    own = {"defaults": "defaults", "words": "WORDS"}
    options = parse(
        command.Options,
        argv[1:],
        prog=prog or f"alexnet {name}",
        description=COMMANDS[name],
        **{key: vars(command)[attr] for key, attr in own.items() if attr in vars(command)},
    )
    return 0 if options is None else command.main(options)


def _usage() -> str:
    lines = ["usage: alexnet COMMAND [OPTIONS]", "", "AlexNet in JAX and in PyTorch.", ""]
    lines += [f"  {name:10} {about}" for name, about in COMMANDS.items()]
    return "\n".join([*lines, "", "`alexnet COMMAND --help` lists a command's options."])


def _say(kind: str, message: str, code: int) -> int:
    """Print one line of bounded length; text from files can't send terminal control codes."""
    shown = printable(message[:_MOST]) + ("..." if len(message) > _MOST else "")
    with contextlib.suppress(OSError):  # the exit code still reports it
        print(f"{kind}: {shown}", file=sys.stderr)
    return code
