"""`alexnet doctor`: a look at the machine before a run starts."""

import json
from dataclasses import dataclass

from alexnet.commands.train import WORDS, defaults
from alexnet.config import TrainConfig

__all__ = ["WORDS", "Options", "defaults", "main"]


@dataclass(frozen=True)
class Options:
    """The run to check for, with the options of `alexnet train`."""

    train: TrainConfig
    # Print JSON instead of a table.
    json: bool = False


def main(options: Options) -> int:
    """Print the findings; return 1 if something is wrong."""
    from rich.console import Console

    from alexnet.doctor.examine import examine
    from alexnet.report.doctor import findings_json, passed, print_findings

    with Console(stderr=True).status("checking"):  # on a terminal only
        findings = examine(options.train)
    if options.json:
        print(json.dumps(findings_json(findings), indent=2))
    else:
        print_findings(findings)
    return 0 if passed(findings) else 1
