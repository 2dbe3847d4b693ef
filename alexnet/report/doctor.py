"""`alexnet doctor`: its findings as a table and as JSON."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from alexnet.doctor.finding import OK, WRONG, Finding

_LOG_WIDTH = 200
_STYLES = {OK: "green", "warning": "yellow", WRONG: "red"}


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """`findings`, a dict a line with `check`, `status`, `found` and `fix`; `passed`."""
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "passed": passed(findings),
    }


def passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong; warnings don't count."""
    return all(finding.status != WRONG for finding in findings)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the table, and below it what to do, a line each that can be copied whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="this machine, for this run", title_justify="left")
    for column in ("check", "", "found"):
        table.add_column(column)
    for finding in findings:
        status = Text(finding.status, _STYLES[finding.status])
        table.add_row(finding.check, status, Text(finding.found))
    # In a file or a log, each finding keeps to its line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    console.print(table)
    for finding in findings:
        if finding.fix:
            console.print(f"{finding.check}: {finding.fix}", markup=False, soft_wrap=True)
    wrong = sum(finding.status == WRONG for finding in findings)
    warnings = sum(finding.status not in (OK, WRONG) for finding in findings)
    console.print(f"{wrong or 'nothing'} wrong, {warnings or 'no'} warning(s)")
