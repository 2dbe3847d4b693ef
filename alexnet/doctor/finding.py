"""A finding: one line of the doctor's table."""

from dataclasses import dataclass

OK, WARNING, WRONG = "ok", "warning", "wrong"


@dataclass(frozen=True)
class Finding:
    """One line; `fix` is what to type or change, or empty if there is nothing to do."""

    check: str
    status: str
    found: str
    fix: str = ""


def install(extra: str) -> str:
    """The command that installs the packages of one of this project's extras."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"
