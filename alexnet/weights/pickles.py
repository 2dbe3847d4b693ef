"""A reader of pickles that cannot run code: it imports nothing and calls nothing but its own.

`pickle.Unpickler` with a list of allowed names would still allocate what a few bytes ask for, and
would copy every string; this one takes views of the file. It knows the opcodes of protocols 2 to 4
that torch and NumPy write (meanings: CPython's Lib/pickletools.py).
"""

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alexnet.errors import UserError

MAX_STEPS = 1_000_000  # opcodes; an AlexNet checkpoint with its optimizer has some thousand
_SHORT = 256  # bytes up to which a string becomes one; longer ones stay views of the file
_PIECE = 1 << 16  # bytes of a long text that are decoded at a time
_MARK = object()
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}  # N, NEWTRUE, NEWFALSE
_STRUCTS = {0x4A: "<i", 0x4B: "<B", 0x4D: "<H", 0x47: ">d"}  # BININT, BININT1, BININT2, BINFLOAT
# How long a string's length is, and what the string is: byte strings of Python 2 are text here.
_STRINGS = {
    0x55: ("<B", "old"), 0x54: ("<i", "old"),  # SHORT_BINSTRING, BINSTRING
    0x8C: ("<B", "text"), 0x58: ("<I", "text"), 0x8D: ("<Q", "text"),  # ... BINUNICODE8
    0x43: ("<B", "bytes"), 0x42: ("<I", "bytes"), 0x8E: ("<Q", "bytes"),  # ... BINBYTES8
}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """What a name in a pickle stands for, where the pickle may call it."""

    call: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class LongText:
    """A text of more than `_SHORT` bytes, left in the file as UTF-8."""

    raw: memoryview

    @cached_property  # a pickle may ask for it a million times
    def latin1(self) -> memoryview:
        """The bytes that the text stands for, a byte a character.

        Made piece by piece: decoded whole, an array would be in memory three times.

        Raises:
            ValueError: for bytes that are no UTF-8, or characters past the 256th.
        """
        out = memoryview(np.empty(len(self.raw), np.uint8))  # what stays unused takes no memory
        decoder, filled = codecs.getincrementaldecoder("utf-8")(), 0
        for start in range(0, len(self.raw), _PIECE):
            piece = self.raw[start : start + _PIECE]
            text = decoder.decode(piece, start + _PIECE >= len(self.raw))
            out[filled : filled + len(text)] = text.encode("latin-1")
            filled += len(text)
        return out[:filled]


class Buildable:
    """An object that a pickle may give its state to."""

    def build(self, state: Any) -> None:
        """Take the state; here, ignore it."""


class Reader:
    """One pickle being read."""

    def __init__(
        self,
        data: memoryview,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
    ) -> None:
        """Read from `start`; names go through `find`, persistent ids through `persistent`."""
        self.data, self.position = data, start
        self._find, self._persistent = find, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object, with `position` then after it.

        Raises:
            UserError: for bytes that are no pickle, or that ask for anything not foreseen.
        """
        for _ in range(MAX_STEPS):
            code = self._number("<B")
            if code == 0x2E:  # STOP
                return self._pop()
            self._step(code)
        raise UserError("it is a pickle with too many steps")

    def _step(self, code: int) -> None:
        if code in _CONSTANTS:
            self._stack.append(_CONSTANTS[code])
        elif code in _STRUCTS:
            self._stack.append(self._number(_STRUCTS[code]))
        elif code in _STRINGS:
            self._stack.append(self._string(*_STRINGS[code]))
        elif code in _ACTIONS:
            _ACTIONS[code](self)
        else:
            raise UserError(f"it is not a pickle that this program reads: opcode {code:#04x}")

    def _number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from(form, self.data, self.position)
        except struct.error as error:
            raise UserError("it is cut short: its pickle does not end") from error
        self.position += struct.calcsize(form)
        return value

    def _take(self, length: int) -> memoryview:
        if not 0 <= length <= len(self.data) - self.position:
            raise UserError("it is cut short or damaged: a string is longer than the file")
        self.position += length
        return self.data[self.position - length : self.position]

    def _string(self, length: str, kind: str) -> str | bytes | memoryview | LongText:
        raw = self._take(self._number(length))
        if len(raw) > _SHORT:
            return LongText(raw) if kind == "text" else raw
        if kind == "text":
            return bytes(raw).decode(errors="surrogatepass")
        return bytes(raw).decode("latin-1") if kind == "old" else bytes(raw)

    def _line(self) -> str:
        end = bytes(self.data[self.position : self.position + _SHORT]).find(b"\n")
        if end < 0:
            raise UserError("it is damaged: a name in its pickle does not end")
        line = bytes(self._take(end)).decode(errors="replace")
        self.position += 1
        return line

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise UserError("it is damaged: its pickle takes what it did not put")
        return self._stack.pop()

    def _top(self, kind: type | tuple[type, ...]) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise UserError("it is damaged: its pickle fills what is not there")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise UserError("it is damaged: its pickle closes what it did not open")

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _put(self, key: int) -> None:
        if not self._stack:
            raise UserError("it is damaged: its pickle keeps what is not there")
        self._memo[key] = self._stack[-1]

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise UserError("it is damaged: its pickle recalls what it did not keep")
        self._stack.append(self._memo[key])

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise UserError("it is damaged: a name in its pickle has no value")
        try:
            target.update(zip(items[::2], items[1::2], strict=True))
        except TypeError as error:
            raise UserError("it is damaged: a name in its pickle is no name") from error

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UserError("it is damaged: a name in its pickle is no name")
        self._stack.append(self._find(module, name))

    def _stack_global(self) -> None:
        name = self._pop()
        self._global(self._pop(), name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise UserError(
                "it is damaged, or made to run code: its pickle calls what is no function"
            )
        try:
            self._stack.append(function.call(*arguments))
        except TypeError as error:  # from the call itself: another number of arguments
            raise UserError(
                "it is damaged: its pickle makes an array from the wrong parts"
            ) from error

    def _build(self) -> None:
        state = self._pop()
        target = self._top((dict, Buildable))
        if isinstance(target, Buildable):
            target.build(state)
        # A dict's state is torch's `_metadata`: versions of the layers' code.

    def _persistent_id(self) -> None:
        if self._persistent is None:
            raise UserError("it is a pickle that refers to another file")
        self._stack.append(self._persistent(self._pop()))


_ACTIONS: dict[int, Callable[[Reader], Any]] = {
    0x80: lambda r: r._number("<B"),  # PROTO
    0x95: lambda r: r._number("<Q"),  # FRAME
    0x28: lambda r: r._stack.append(_MARK),  # MARK
    0x7D: lambda r: r._stack.append({}),  # EMPTY_DICT
    0x5D: lambda r: r._stack.append([]),  # EMPTY_LIST
    0x29: lambda r: r._stack.append(()),  # EMPTY_TUPLE
    0x85: lambda r: r._tuple(1),  # TUPLE1
    0x86: lambda r: r._tuple(2),  # TUPLE2
    0x87: lambda r: r._tuple(3),  # TUPLE3
    0x74: lambda r: r._stack.append(tuple(r._pop_mark())),  # TUPLE
    0x71: lambda r: r._put(r._number("<B")),  # BINPUT
    0x72: lambda r: r._put(r._number("<I")),  # LONG_BINPUT
    0x94: lambda r: r._put(len(r._memo)),  # MEMOIZE
    0x68: lambda r: r._get(r._number("<B")),  # BINGET
    0x6A: lambda r: r._get(r._number("<I")),  # LONG_BINGET
    0x61: lambda r: r._append([r._pop()]),  # APPEND
    0x65: lambda r: r._append(r._pop_mark()),  # APPENDS
    0x73: lambda r: r._set([r._pop(), r._pop()][::-1]),  # SETITEM
    0x75: lambda r: r._set(r._pop_mark()),  # SETITEMS
    0x8A: lambda r: r._long(),  # LONG1
    0x63: lambda r: r._global(r._line(), r._line()),  # GLOBAL
    0x93: lambda r: r._stack_global(),  # STACK_GLOBAL
    0x52: lambda r: r._reduce(),  # REDUCE
    0x62: lambda r: r._build(),  # BUILD
    0x51: lambda r: r._persistent_id(),  # BINPERSID
}


def refuse(module: str, name: str) -> UserError:
    """The error for a name that a pickle must not use."""
    return UserError(
        f"its pickle asks for {f'{module}.{name}'[:100]!r}, which could run code: only plain "
        "arrays and tables are read (a whole pickled model must be saved as its state dict)"
    )
