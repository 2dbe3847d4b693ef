"""`alexnet doctor`: its findings as a table and as JSON."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from alexnet.doctor.finding import OK, WARNING, WRONG, Finding
from alexnet.text import counted, printable

_LOG_WIDTH = 200
_STYLES = {OK: "green", WARNING: "yellow", WRONG: "red"}


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """`findings`, one dict per line with `check`, `status`, `found` and `fix`; and `passed`."""
    return {"findings": list(map(dataclasses.asdict, findings)), "passed": passed(findings)}


def passed(findings: Sequence[Finding]) -> bool:
    """Check that nothing is wrong; warnings don't count."""
    return all(finding.status != WRONG for finding in findings)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the table, and below it the fixes, each on one line so that it can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", title="this machine, for this run", title_justify="left")
    for finding in findings:
        status = Text(finding.status, _STYLES[finding.status])
        table.add_row(finding.check, status, Text(printable(finding.found)))
    # In a file or a log, each finding keeps to its line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    console.print(table)
    for finding in findings:
        if finding.fix:
            fix = printable(finding.fix)
            console.print(f"{finding.check}: {fix}", markup=False, soft_wrap=True)
    console.print(_summary([finding.status for finding in findings]))


def _summary(statuses: Sequence[str]) -> str:
    """The last line: "all checks passed", "1 warning", or "2 problems, 1 warning"."""
    counts = {"problem": statuses.count(WRONG), "warning": statuses.count(WARNING)}
    parts = [counted(n, noun) for noun, n in counts.items() if n]
    return ", ".join(parts) or "all checks passed"
