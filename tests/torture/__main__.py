"""`python -m tests.torture`: thousands of faults injected, and a table of what held.

`make torture` runs it, for 20 minutes on two cores by default.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet.errors import UserError, choose
from alexnet.options import between, check_values, parse
from tests.torture.cases import CAMPAIGNS
from tests.torture.harness import LISTED, Result, run


@dataclass(frozen=True)
class Options:
    """What to try, and for how long."""

    # Changes every case.
    seed: int = 0
    # For all campaigns together; what one leaves of its share goes to the others.
    minutes: float = 20.0
    # Campaigns, with commas between them; all by default.
    only: str | None = None
    # The number of a single case, to see it again.
    case: int | None = None
    # Times each campaign's own number of cases; by default as many as there are 20 minutes.
    times: float | None = None
    # Workers at once; as many as there are cores by default, 8 at the most.
    jobs: int | None = None
    # Print JSON in place of a table.
    json: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        between(self, 0, None, "seed", "case")
        between(self, 0.01, 10_000, "minutes", "times")
        between(self, 1, 64, "jobs")

    @property
    def names(self) -> list[str]:
        """The campaigns to run."""
        words = self.only.split(",") if self.only else CAMPAIGNS
        return [choose("campaign", word.strip(), CAMPAIGNS) for word in words]

    def cases(self, name: str) -> range:
        """The cases of a campaign that are meant to be tried."""
        if self.case is not None:
            return range(self.case, self.case + 1)
        times = self.times or max(1, self.minutes / 20)
        return range(max(1, round(CAMPAIGNS[name].target * times)))


def campaigns(options: Options, folder: Path, console: Console) -> Iterator[Result]:
    """Run the campaigns, one after another, each in its share of the time that is left.

    Those whose share was too short go on, in the same way, where others left some of theirs.
    """
    end = time.monotonic() + 60 * options.minutes
    jobs = options.jobs or min(len(os.sched_getaffinity(0)), 8)
    begun: dict[str, Result] = {}
    for again in (False, True):
        shares = {name: CAMPAIGNS[name].share for name in (begun if again else options.names)}
        for name in list(shares):
            seconds = max(0.0, end - time.monotonic()) * shares[name] / sum(shares.values())
            del shares[name]
            with console.status(name) as status:

                def show(result: Result, status=status) -> None:
                    failed = f", {len(result.failures)} failed" if result.failures else ""
                    status.update(f"{result.campaign}: {result.tried} of {result.target}{failed}")

                result = run(
                    name, folder, seed=options.seed, cases=options.cases(name), seconds=seconds,
                    jobs=jobs, show=show, begun=begun.get(name),
                )  # fmt: skip
            if not again and any(result.left):
                begun[name] = result
            else:
                yield result


def table(results: list[Result]) -> Table:
    """The figures."""
    shown = Table("campaign", "tried", "held", "failed", "seconds", "of those that held", box=None)
    for result in results:
        short = f" of {result.target:,}" if result.tried < result.target else ""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.kinds.most_common())
        shown.add_row(
            result.campaign,
            f"{result.tried:,}{short}",
            f"{result.held:,}",
            f"{len(result.failures):,}",
            f"{result.seconds:.0f}",
            escape(kinds),
        )
    return shown


def remarks(result: Result) -> Iterator[str]:
    """Sentences on what failed, and on what was not tried."""
    for reason, count in result.skipped.items():
        yield f"{result.campaign}: {count} not tried here: {reason}"
    if missing := result.target - result.tried - result.skipped.total():
        yield f"{result.campaign}: {missing:,} of {result.target:,} not reached in its time"
    for case, message in result.failures[:LISTED]:
        yield f"{result.campaign}: failed: {message}\n    again: {result.again(case)}"
    if (more := len(result.failures) - LISTED) > 0:
        yield f"{result.campaign}: and {more} more failures"


def plain(result: Result) -> dict:
    """A result for JSON."""
    failures = [
        {"case": case, "message": message, "again": result.again(case)}
        for case, message in result.failures
    ]
    counts = {"target": result.target, "tried": result.tried, "held": result.held}
    return {
        "campaign": result.campaign, "seed": result.seed, **counts, "failures": failures,
        "skipped": result.skipped, "kinds": result.kinds, "seconds": round(result.seconds, 1),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    """Run campaigns; the exit code is 1 if anything failed."""
    try:
        options = parse(Options, argv, prog="python -m tests.torture", description=__doc__)
        if options is None:
            return 0
        names = options.names
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(stderr=options.json)
    console.print(f"{len(names)} campaigns, seed {options.seed}, {options.minutes:g} minutes")
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(
            prefix="alexnet-torture-", ignore_cleanup_errors=True
        ) as folder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for result in campaigns(options, Path(folder), console):
            results.append(result)
            for line in remarks(result):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps([plain(result) for result in results], indent=2))
    else:
        console.print(table(sorted(results, key=lambda result: names.index(result.campaign))))
    whole = len(results) == len(names) and not any(result.failures for result in results)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
