"""The two ways in which a command can fail, each reported in one sentence."""

import difflib
from collections.abc import Iterable
from numbers import Integral


class UserError(Exception):
    """A mistake in the user's input: one sentence, no traceback, exit code 2."""


class RunError(Exception):
    """A failure that is not the user's mistake: exit code 1."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error, at most 200 characters, or the error's type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: one spelled similarly, or beginning with `name`."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
    return next(iter(near or (k for k in known if name and k.startswith(name))), None)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in `known`; it suggests the nearest one that is."""
    known, name = list(known), f"{name!s:.100}"
    near = nearest(name, known)
    hint = f"did you mean '{near}'? " if near else ""
    return UserError(f"unknown {kind} '{name}': {hint}known are {', '.join(known)}")


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`.

    Raises:
        UserError: naming the nearest known name.
    """
    known = list(known)
    if name not in known:
        raise unknown(kind, name, known)
    return name


def check_count(name: str, value: object, least: int = 1, most: int = 1_000_000) -> None:
    """Refuse anything but a whole number in a range.

    Raises:
        UserError: with the name, the value and the range.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= most:  # type: ignore[operator]
        raise UserError(
            f"{name} is {value!r:.40}, but it must be a whole number from {least} to {most}"
        )
