"""Frozen dataclasses read from command lines and from JSON.

A field is an option of the same name, and the comment above it is its help text. A field that is
itself a dataclass is a group of options, headed by the first line of its docstring. Names are
unique over the whole tree. `Literal` lists the values that an option accepts.
"""

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from alexnet.errors import UserError, choose, nearest
from alexnet.files import as_path

T = TypeVar("T")
# Metadata of a positional argument; the last one may be a tuple, which takes all remaining words.
POSITIONAL = MappingProxyType({"positional": True})
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LARGEST = 2**63  # limit of libraries' integers
LEAST, MOST = 1e-37, 1e37  # magnitudes that, as their reciprocals, are finite and normal in fp32


def parse(
    kind: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str = "",
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: _NOTHING,
    words: Mapping[str, Sequence[str]] = _NOTHING,
) -> T | None:
    """Read a command line, once.

    Args:
        kind: the dataclass to make.
        argv: words after the command's name.
        prog: the command, for messages.
        description: text for its help.
        defaults: maps the values from the command line, by field name, to values of `kind`'s own
            fields that replace the dataclass's defaults.
        words: values that the help lists for fields whose type doesn't list them.

    Returns:
        The dataclass that the command line describes, or None after printing help.

    Raises:
        UserError: for an unknown option, a missing or malformed value, or one that `kind` refuses.
    """
    see = f"see `{prog} --help`"
    parser = _parser(kind, words)
    try:
        namespace, rest = parser.parse_known_args(list(argv))
    except UserError as error:
        raise UserError(f"{error}; {see}") from error
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(namespace).items()}
    if "help" in given:
        about = {"prog": prog, "usage": _usage(kind, prog), "description": description}
        _parser(kind, words, defaults(given), **about).print_help()
        return None
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            raise _unknown(word, parser, see)
    for field in filter(_is_positional, dataclasses.fields(cast(Any, kind))):
        if get_origin(field.type) is tuple and rest:  # the last one
            given[field.name], rest = tuple(rest), []
        elif rest:
            given[field.name] = rest.pop(0)
    if rest:
        raise UserError(f"unexpected argument '{rest[0]:.60}'; {see}")
    return _build(kind, given, defaults(given), see)


def _build(kind: type[T], given: Mapping[str, Any], base: Mapping[str, Any], see: str) -> T:
    """A dataclass with the values given, else those of `base`, else its own defaults."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {name: base[name] for name in names if name in base}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(field.type):
            inner = base.get(field.name)
            inner = _NOTHING if inner is None else vars(inner)
            values[field.name] = _build(field.type, given, inner, see)  # type: ignore[arg-type]
        elif field.name in given:
            values[field.name] = given[field.name]
        elif field.name not in base and field.default is dataclasses.MISSING:
            raise UserError(f"{_name(field)} is missing; {see}")
    return kind(**values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Raise an error; argparse would print and exit."""
        raise UserError(message.removeprefix("argument "))


def _parser(
    kind: type,
    words: Mapping[str, Sequence[str]],
    base: Mapping[str, Any] | None = None,
    **about: Any,
) -> _Parser:
    """A parser without defaults: options that aren't given are absent from the result.

    With `base`, the defaults to show, it includes the help.
    """
    parser = _Parser(
        argument_default=argparse.SUPPRESS, add_help=False, allow_abbrev=False, **about
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this help.")
    _add(parser, parser, kind, words, base)
    return parser


def _add(
    parser: _Parser,
    group: Any,
    kind: type,
    words: Mapping[str, Sequence[str]],
    base: Mapping[str, Any] | None,
) -> None:
    """Add a dataclass's options to a group of a parser."""
    comments = {} if base is None else _comments(kind)
    for field in dataclasses.fields(kind):
        value = (base or _NOTHING).get(field.name, field.default)
        if dataclasses.is_dataclass(field.type):
            inner = parser.add_argument_group(
                (field.type.__doc__ or "").splitlines()[0].rstrip(".")
            )
            shown_ = None if base is None else vars(value)
            _add(parser, inner, field.type, words, shown_)  # type: ignore[arg-type]
            continue
        plain = value is False and group is parser  # without a --no- form its default is always off
        default = "" if plain or not shown(value, "") else f" (default: {shown(value)})"
        text = comments.get(field.name, "").replace("%", "%%") + default
        if not _is_positional(field):
            reading = _reading(field, group is not parser, words)
            group.add_argument(flag(field.name), dest=field.name, help=text, **reading)
        elif base is not None:  # read from the words that the parser leaves over
            group.add_argument(_name(field), help=text)


def _reading(
    field: dataclasses.Field, in_group: bool, words: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Arguments with which argparse reads a field."""
    kind, optional = without_none(field.type)
    if kind is bool:  # in a group, a recipe may have turned it on
        return {"action": argparse.BooleanOptionalAction if in_group else "store_true"}
    count: str | int | None = None
    if get_origin(kind) is tuple:  # any number of values, or as many as its type lists
        count = "*" if Ellipsis in get_args(kind) else len(get_args(kind))
        kind = get_args(kind)[0]
    listed = words.get(field.name) or (get_args(kind) if get_origin(kind) is Literal else ())
    read = {int: _whole_number, float: _number}.get(kind, _text)
    metavar = f"{{{','.join(listed)}}}" if listed else {int: "N", float: "X"}.get(kind, "TEXT")
    reading = {
        "type": lambda text: None if optional and text == "None" else read(text),
        "metavar": metavar,
    }
    return reading if count is None else {**reading, "nargs": count}


def _text(text: str) -> str:
    if not text:  # as from an empty variable in a script
        raise argparse.ArgumentTypeError("the value is empty: give one, or leave the option out")
    return text


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number") from None


def without_none(kind: Any) -> tuple[Any, bool]:
    """A field's type without None, and a flag that says if None is allowed."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    (rest,) = (part for part in get_args(kind) if part is not NoneType)
    return rest, True


def flag(name: str) -> str:
    """The option of a field; a trailing underscore, which avoids Python keywords, is dropped."""
    return "--" + name.rstrip("_").replace("_", "-")


def _is_positional(field: dataclasses.Field) -> bool:
    return "positional" in field.metadata


def _name(field: dataclasses.Field) -> str:
    return field.name.upper() if _is_positional(field) else flag(field.name)


def _unknown(word: str, parser: _Parser, see: str) -> UserError:
    """The error for an unknown option; it suggests the nearest known one."""
    word = word.partition("=")[0]
    known = [name[2:] for name in parser._option_string_actions if name.startswith("--")]
    near = nearest(word.strip("-").replace("_", "-"), known)
    hint = f"did you mean --{near}? " if near else ""
    return UserError(f"unknown option {word:.60}: {hint}{see}")


def _usage(kind: type, prog: str) -> str:
    """A usage line with only the required arguments; argparse's own would list every option."""
    needed = [f for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    words = [
        f"{_name(f)} {f.name.upper()}"
        if not _is_positional(f)
        else _name(f) + "..." * (get_origin(f.type) is tuple)
        for f in needed
        if not dataclasses.is_dataclass(f.type)
    ]
    return " ".join([prog, *words, "[OPTIONS]"])


def _comments(kind: type) -> dict[str, str]:
    """The comment above each field."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in map(str.strip, inspect.getsource(kind).splitlines()):
        if line.startswith("# "):
            lines.append(line[2:])
        else:
            if match := re.match(r"(\w+): ", line):
                found[match[1]] = " ".join(lines)
            lines = []
    return found


def shown(value: Any, nothing: str = "not given") -> str:
    """A value as it is written on a command line; `nothing` if there is none."""
    if value is None or value is dataclasses.MISSING or value == ():
        return nothing
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- JSON ---------------------------------------------------------------------------------------


def from_plain(kind: Any, values: Any) -> Any:
    """A dataclass from JSON values; missing fields take their defaults.

    Raises:
        ValueError: for unknown fields, or values of the wrong type.
        UserError: for values that the dataclass refuses.
    """
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    if not isinstance(values, dict) or values.keys() - fields.keys():
        raise ValueError(f"{values!r:.100} is not what {kind.__name__} holds")
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            built[name] = from_plain(fields[name], value)
            continue
        built[name] = tuple(value) if isinstance(value, list) else value
        if not _fits(fields[name], built[name]):
            raise ValueError(f"{name} is {value!r:.100}")
    return kind(**built)


def _fits(kind: Any, value: Any) -> bool:
    """True if a value has the type of a field."""
    if get_origin(kind) in (UnionType, Union):
        return any(_fits(part, value) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return type(value) is tuple and all(_fits(get_args(kind)[0], v) for v in value)
    if get_origin(kind) is Literal:
        return type(value) is str  # the dataclass checks the value
    return type(value) is kind or (kind is float and type(value) is int)


# --- checks, for a dataclass's __post_init__ -----------------------------------------------------


def check_values(options: Any) -> None:
    """Refuse values that a field's `Literal` doesn't list, and numbers too large or not finite.

    Raises:
        UserError: naming the option, its value and the valid values.
    """
    for field in dataclasses.fields(options):
        value, (kind, _) = getattr(options, field.name), without_none(field.type)
        if get_origin(kind) is Literal and value is not None:
            choose(flag(field.name), value, get_args(kind))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                need = "a finite number that fp32 holds, 1e37 at most"
                require(abs(number) <= MOST, field.name, value, need)
            elif isinstance(number, int):
                require(abs(number) < _LARGEST, field.name, value, "below 2^63")


def require(holds: bool, name: str, value: Any, need: str) -> None:
    """Refuse a field's value.

    Raises:
        UserError: if `holds` is false.
    """
    if not holds:
        raise UserError(f"{flag(name)} is {shown(value):.60}, but it must be {need}")


def check_option_path(name: str, text: str | None, hub: bool = False) -> None:
    """Refuse a field's text if it is not a path or, with `hub`, an address hf://...

    Raises:
        UserError: naming the option.
    """
    try:
        if text and not (hub and text.startswith("hf://")):  # fetched when it is read
            as_path(text)
    except UserError as error:
        raise UserError(f"{flag(name)}: {error}") from error


def between(options: Any, low: float, high: float | None, *names: str) -> None:
    """Refuse values of the named fields outside a range; None is allowed.

    Raises:
        UserError: naming the first such field.
    """
    need = f"at least {low}" if high is None else f"from {low} to {high}"
    for name in names:
        value = getattr(options, name)
        holds = value is None or (low <= value and (high is None or value <= high))
        require(holds, name, value, need)
