"""What a check found: one line of the doctor's table."""

from dataclasses import dataclass

OK, WARNING, WRONG = "ok", "warning", "wrong"


@dataclass(frozen=True)
class Finding:
    """One line; `fix` is what to type or change, empty where there is nothing to do."""

    check: str
    status: str
    found: str
    fix: str = ""


def install(extra: str) -> str:
    """The command that installs what an extra of this project needs."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"


def size(count: float) -> str:
    """Bytes in words."""
    unit, bytes_ = next(
        (u for u in (("GiB", 2**30), ("MiB", 2**20)) if count >= u[1]), ("KiB", 1024)
    )
    return f"{count / bytes_:.1f} {unit}"
