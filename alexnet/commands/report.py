"""`alexnet report`: an HTML page that shows the results of training."""

from dataclasses import dataclass, field
from pathlib import Path

from alexnet.config import LARGEST_IMAGE, Framework, VariantName
from alexnet.errors import UserError
from alexnet.files import as_path, atomic_write, is_remote
from alexnet.options import POSITIONAL, between, check_values
from alexnet.workdir import PAGE, is_page

MOST_RUNS = 12  # colors that can be told apart


@dataclass(frozen=True)
class Options:
    """Runs, and what to show of them."""

    # Runs' work directories, or a weights file; from the classes on, the page shows only the first.
    run: tuple[str, ...] = field(metadata=POSITIONAL)
    # The page; by default report.html in the first run's directory, or beside the weights file.
    output: str | None = None
    # Replace a file that this command did not write.
    overwrite: bool = False
    # Data to show the network on; by default a run's own.
    dataset: str | None = None
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Framework to use; by default the run's own, or jax.
    framework: Framework | None = None
    # Number of examples to evaluate, evenly spaced in the evaluation set.
    examples: int = 10_000
    # Show only mistakes as sample predictions.
    only_errors: bool = False
    # Convolution whose strongest patches are shown; by default the last.
    layer: str | None = None
    # The network, for files that don't say.
    variant: VariantName | None = None
    # Height and width of its input, for files that don't say.
    image_size: int | None = None

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 1, None, "examples")
        between(self, 1, LARGEST_IMAGE, "image_size")
        if not 1 <= len(self.run) <= MOST_RUNS:
            raise UserError(f"{len(self.run)} runs are given: one page shows 1 to {MOST_RUNS}")


def main(options: Options) -> int:
    """Write the page, and print where it is."""
    from rich.console import Console

    from alexnet.report.page.build import FILTERS, Choices, build
    from alexnet.report.page.html import clean
    from alexnet.report.page.subject import Reading, open_subject, tell_apart

    first = as_path(options.run[0])
    output = as_path(options.output) if options.output else _default(first)
    check_output(output, options.overwrite)
    reading = Reading(options.dataset, options.data_dir, options.variant, options.image_size)
    choices = Choices(options.framework, options.examples, options.only_errors, options.layer)
    with Console(stderr=True).status("reading") as status:  # on a terminal only
        subjects = [
            open_subject(run, reading, with_weights=place < FILTERS, with_data=place == 0)
            for place, run in enumerate(options.run)
        ]
        tell_apart(subjects)
        if (options.variant or options.image_size) and all(one.config for one in subjects):
            raise UserError("a run says what its network is: leave --variant and --image-size out")
        page = build(subjects, choices, status.update)
    with atomic_write(output) as file:
        file.write(page.encode())
    print(clean(output, 4096))
    return 0


def _default(first: Path) -> Path:
    return first / PAGE if first.is_dir() else first.parent / PAGE


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file that is not one of our pages, before anything is computed.

    Raises:
        UserError: saying how to replace it, or that its directory is missing.
    """
    from alexnet.replacing import check_replaceable

    if path.is_dir():
        raise UserError(f"--output {path} is a directory: name a file in it")
    check_replaceable(path)
    if path.exists():
        if not is_page(path) and not overwrite:
            raise UserError(f"{path} is no page of alexnet report: --overwrite replaces it")
    elif not is_remote(path) and not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no directory {path.parent}")
