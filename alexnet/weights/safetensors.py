"""The safetensors container: a JSON header, then the arrays' bytes.

(Format: README of github.com/huggingface/safetensors.) Read here and not by the `safetensors`
package, which maps the file into memory and knows no digests.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError

MAX_HEADER = 4 << 20  # bytes; a thousand class names take thirty thousand
_DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_SIZES = {"BF16": 2, "I16": 2, "U16": 2, "U32": 4, "U64": 8, "I8": 1, "BOOL": 1} | {
    name: np.dtype(code).itemsize for name, code in _DTYPES.items()
}


@dataclass(frozen=True)
class Entry:
    """One array's place in the file, in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The parsed header; `size` counts its bytes with the eight of its length."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    size: int


def header_size(head: bytes | memoryview) -> int:
    """Bytes of the header by its first eight, or 0 where that can't be one."""
    if len(head) < 9:
        return 0
    (size,) = struct.unpack_from("<Q", head)
    return size + 8 if 2 <= size <= MAX_HEADER and head[8] == ord("{") else 0


def parse_header(data: bytes | memoryview, file_size: int) -> Header:
    """Read the header and hold it against the file's size.

    Raises:
        UserError: for a header that is malformed, or whose arrays overlap, leave holes or do not
            end where the file does.
    """
    size = header_size(data)
    if not size or size > min(len(data), file_size):
        raise UserError("the header is longer than the file, or not JSON")
    try:
        values = json.loads(bytes(data[8:size]).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the header is not JSON: {error}") from error
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError("the header's metadata is not a table of strings")
    entries = {name: _entry(name, value) for name, value in values.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != end:
            raise UserError(f"array {name!r} overlaps another or leaves a hole before it")
        end = entry.end
    if size + end != file_size:
        raise UserError(f"the file has {file_size} bytes, and its header describes {size + end}")
    return Header(entries, metadata, size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a name comes twice: readers differ on which one counts."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice")
    return values


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, end))
        fits = whole and len(shape) <= 8 and math.prod(shape) * _SIZES[dtype] == end - start
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"the header's entry for {name!r} is malformed") from error
    if not fits or set(value) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"the header's entry for {name!r} has a shape that is not its size")
    return Entry(dtype, tuple(shape), start, end)


def arrays(data: memoryview, header: Header) -> Iterator[tuple[str, np.ndarray]]:
    """Every array, as a view of `data`.

    Types that NumPy lacks (bfloat16) come as raw integers: `check` refuses them by their type.
    """
    for name, entry in header.entries.items():
        code = _DTYPES.get(entry.dtype, f"V{_SIZES[entry.dtype]}")
        raw = data[header.size + entry.start : header.size + entry.end]
        yield name, np.frombuffer(raw, code).reshape(entry.shape)


def encode_header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    """The header of a file with these fp32 arrays, one after the other, padded to 64 bytes."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def write_plain(file: BinaryIO, values: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A whole file: header and fp32 arrays, under the names given."""
    file.write(encode_header({name: a.shape for name, a in values.items()}, metadata))
    for array in values.values():
        for block in blocks(array):
            file.write(block)


def blocks(array: np.ndarray, size: int = 8 << 20) -> Iterator[memoryview]:
    """The little-endian bytes of an fp32 array in C order, about `size` bytes at a time.

    Transposed views are written through this: no whole copy of one is ever made.
    """
    if not array.ndim:
        array = array.reshape(1)
    rows = max(1, size // max(1, 4 * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(array[start : start + rows], "<f4")
        yield memoryview(block.reshape(-1).view(np.uint8))
