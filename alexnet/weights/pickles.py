"""Pickles, read without running anything in them and without taking more than their file should.

A pickle is a program for a stack machine. `load` first walks through it with the tables of
`pickletools` and refuses anything that could take time or memory out of proportion: a few bytes can
ask for gigabytes, or for the hash of a value nested so deep that the stack overflows. Then the
standard library's Unpickler builds it, with stand-ins under the few names that are allowed.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError

MAX_OPCODES = 500_000  # an AlexNet checkpoint with its optimizer has some thousand
MAX_DEPTH = 32  # containers in containers; an optimizer's state has six
_MAX_INT_KEYS = 5_000  # they can be chosen to collide in a table, which strings can't
_MAX_SHORT = 16 << 20  # bytes without the long strings: text may take four times as much in memory
_LONG = 1 << 16  # bytes; the walk skips strings from this length on
_MAX_NAME = 256
_BLOCK = 1 << 20
_ERRORS = (pickle.UnpicklingError, EOFError, TypeError, ValueError, LookupError, AttributeError)

# (module, name) to its stand-in. A callable one returns a `Buildable` or a plain Python value, in
# time proportional to the input that it reads or uses up.
Names = Mapping[tuple[str, str], Any]


class Buildable:
    """An object that a pickle may give a state to, which is ignored unless a subclass takes it.

    Subclasses have slots. Only what a call returned is given a state: BUILD sets attributes.
    """

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Take the state."""


def load(
    file: BinaryIO,
    names: Names,
    persistent: Callable[[Any], Any] | None = None,
    encoding: str = "latin1",
) -> Any:
    """Read the pickle at a file's position, and leave the position after it.

    Args:
        file: a regular file.
        names: the names that are allowed.
        persistent: turns a persistent id into a value; ids are refused by default.
        encoding: of Python 2's byte strings; "bytes" leaves them as they are.

    Raises:
        UserError: for a pickle that is corrupt, would run code, or asks for too much.
    """
    start = file.tell()
    try:
        _Scan(file, names).run()
        end = file.tell()
        file.seek(start)
        unpickler: Any = _Unpickler(file, encoding=encoding)
        unpickler.names = names
        if persistent:
            unpickler.persistent_load = persistent
        value = unpickler.load()
    except _ERRORS as error:
        text = (str(error).splitlines() or [""])[0][:200]
        known: dict[type, str] = {IndexError: "stack underflow", KeyError: "missing memo entry"}
        raise UserError(f"corrupt pickle: {known.get(type(error), text)}") from error
    file.seek(end)
    return value


class _Unpickler(pickle.Unpickler):
    """The standard library's Unpickler, with stand-ins under the names."""

    names: Names

    def find_class(self, module: str, name: str) -> Any:
        return _find(self.names, module, name)


def _find(names: Names, module: str, name: str) -> Any:
    if (module, name) not in names:
        raise UserError(
            f"its pickle asks for {f'{module}.{name}'[:100]!r}, which could run code: only plain "
            "arrays and tables are read (save a whole pickled model as its state dict)"
        )
    return names[module, name]


# --- the walk --------------------------------------------------------------------------------

_ALL = -1  # down to the mark
# The opcodes of protocols 2 to 5 that torch and NumPy write: how many values each takes from the
# stack, and the kind of the one that it puts there.
_EFFECTS = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), (0, "int")),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), (0, "string")),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), (0, "string")),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), (0, "string")),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "GLOBAL"), (0, "other")),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"), (0, "other")),
    **{"TUPLE1": (1, "other"), "TUPLE2": (2, "other"), "TUPLE3": (3, "other")},
    **{"TUPLE": (_ALL, "other"), "STACK_GLOBAL": (2, "other"), "BINPERSID": (1, "other")},
    "REDUCE": (2, "made"),
    # These go into the value below.
    **{"APPEND": (1, ""), "APPENDS": (_ALL, ""), "SETITEM": (2, ""), "SETITEMS": (_ALL, "")},
    "BUILD": (1, ""),
}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"BINGET", "LONG_BINGET"}
_KNOWN = {*_EFFECTS, *_PUTS, *_GETS, "MARK", "PROTO", "FRAME", "STOP"}
_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes if op.name in _KNOWN}
_LENGTHS = {  # bytes of a string's length field
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class _Scan:
    """One pass over a pickle's opcodes; IndexError and KeyError mean an inconsistent stack."""

    def __init__(self, file: BinaryIO, names: Names) -> None:
        self.file, self.names, self.start = file, names, file.tell()
        self.end = file.seek(0, 2)
        file.seek(self.start)
        self.stack: list[tuple[str, int]] = []  # kinds and depths
        self.marks: list[int] = []
        self.memo: dict[int, tuple[str, int]] = {}
        self.skipped = self.int_keys = 0

    def run(self) -> None:
        """Check everything up to the pickle's end."""
        for step in range(MAX_OPCODES):
            code = self.file.read(1)
            if not code:
                raise UserError("corrupt pickle: it is cut short")
            if code not in _OPCODES:
                raise UserError(
                    f"its pickle has opcode 0x{code.hex()}, which plain arrays and tables do not "
                    "need: it is corrupt, or a whole pickled model (save its state dict instead)"
                )
            name, argument = _OPCODES[code].name, self.argument(_OPCODES[code])
            if name in _EFFECTS:
                self.effect(name, *_EFFECTS[name])
            elif name in _PUTS:
                index = len(self.memo) if argument is None else argument
                if index > step:  # the Unpickler takes memory for all indices up to this one
                    raise UserError("corrupt pickle: memo index out of range")
                self.memo[index] = self.stack[-1]
            elif name in _GETS:
                self.stack.append(self.memo[argument])
            elif name == "MARK":
                self.marks.append(len(self.stack))
            elif name == "FRAME":
                self.inside(argument)
            elif name == "STOP":
                break
        else:
            raise UserError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
        if self.file.tell() - self.start - self.skipped > _MAX_SHORT:
            raise UserError(f"its pickle has more than {_MAX_SHORT:,} bytes of short strings")

    def effect(self, name: str, takes: int, kind: str) -> None:
        """Apply an opcode's effect to the stack."""
        if not takes:
            self.stack.append((kind, 0))
            return
        bottom = self.marks.pop() if takes == _ALL else len(self.stack) - takes
        if bottom < 0:
            raise IndexError
        taken = self.stack[bottom:]
        del self.stack[bottom:]
        depth = 1 + max((depth for _, depth in taken), default=-1)
        if not kind:
            kind, old = self.stack.pop()
            depth = max(depth, old)
            if name == "BUILD" and kind != "made":
                raise UserError("corrupt pickle: it gives a state to something that takes none")
            if name.startswith("SETITEM"):
                self.keys([key for key, _ in taken[::2]])
        if depth > MAX_DEPTH:
            raise UserError(f"its pickle nests values more than {MAX_DEPTH} deep")
        self.stack.append((kind, depth))

    def keys(self, kinds: list[str]) -> None:
        self.int_keys += kinds.count("int")
        if not {"int", "string"}.issuperset(kinds):
            raise UserError("corrupt pickle: a key is neither a string nor an integer")
        if self.int_keys > _MAX_INT_KEYS:
            raise UserError(f"its pickle has more than {_MAX_INT_KEYS:,} integers as keys")

    def argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        """The number after an opcode, if there is one; strings and names are skipped."""
        if opcode.arg is None:
            return None
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            module, name = (self.file.readline(_MAX_NAME).decode() for _ in range(2))
            if not module.endswith("\n") or not name.endswith("\n"):
                raise UserError("corrupt pickle: a name does not end")
            _find(self.names, module[:-1], name[:-1])
            return None
        if opcode.arg.n > 0:
            return opcode.arg.reader(self.file)
        length = int.from_bytes(self.file.read(_LENGTHS[opcode.arg.n]), "little")
        self.inside(length)
        after = self.file.tell() + length
        if length > _LONG:
            self.skipped += length
            for start in range(0, length if "UNICODE" in opcode.name else 0, _BLOCK):
                self.latin1(min(_BLOCK, length - start))
        self.file.seek(after)
        return None

    def inside(self, length: int) -> None:
        if length > self.end - self.file.tell():
            raise UserError("corrupt pickle: a string is longer than the rest of the file")

    def latin1(self, size: int) -> None:
        """Refuse characters past the 256th, which make a whole text take more memory."""
        if np.frombuffer(self.file.read(size), np.uint8).max() > 0xC3:  # U+0100 is C4 80
            raise UserError("corrupt pickle: a long text is not an array's bytes")
