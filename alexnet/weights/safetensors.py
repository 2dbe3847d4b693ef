"""The safetensors container: a JSON header, then the arrays' bytes.

The `safetensors` package reads it, from bytes: a memory map would kill the process if the file were
cut short meanwhile. Writing is done here, block by block, as the package copies every array.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import safetensors

from alexnet.errors import UserError
from alexnet.weights.core import BF16
from alexnet.weights.precision import STORED, Dtype

MAX_HEADER = 4 << 20  # bytes; a thousand class names take thirty thousand
_MAX_LISTS = 4000  # in the header, which has two for each array
_DTYPES: dict[str, Any] = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": BF16, "I64": "<i8", "I32": "<i4", "U8": "|u1",
}  # fmt: skip
_NAMES: dict[Dtype, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def header_size(head: bytes | memoryview) -> int:
    """The header's size, length field included, by its first nine bytes; 0 if they aren't one."""
    if len(head) < 9:
        return 0
    (size,) = struct.unpack_from("<Q", head)
    return size + 8 if 2 <= size <= MAX_HEADER and head[8] == ord("{") else 0


def read(file: BinaryIO) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata, and the arrays in the header's order, of a file that is open at its start.

    Types that NumPy lacks, bfloat16 aside, come as raw bytes: `core.check` refuses them by their
    type.

    Raises:
        UserError: for a file that is damaged, or in which a name comes twice.
    """
    data = file.read()
    size = header_size(data)
    if not size:
        raise UserError("it has no safetensors header")
    if data.count(b"[", 0, size) > _MAX_LISTS:
        raise UserError(f"its header has more than the {_MAX_LISTS // 2} arrays that are read")
    try:
        tensors = dict(safetensors.deserialize(data))
        header = json.loads(data[8:size], object_pairs_hook=_unique)
    except (safetensors.SafetensorError, ValueError) as error:
        shown = str(error).removeprefix("Error while deserializing: ")[:200]
        raise UserError(f"corrupt safetensors header: {shown!a}") from error
    metadata = header.pop("__metadata__", None) or {}
    return metadata, {name: _array(**tensors[name]) for name in header}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a name comes twice: readers differ on which one counts."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice")
    return values


def _array(dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
    code = _DTYPES.get(dtype, f"V{len(data) // max(1, math.prod(shape))}")
    return np.frombuffer(data, code).reshape(shape)


def encode_header(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], dtype: Dtype = "fp32"
) -> bytes:
    """The header of a file with these arrays, one after the other, padded to 64 bytes.

    Raises:
        UserError: for one that could not be read again.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        end = start + STORED[dtype].itemsize * math.prod(shape)
        table[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    if len(text) > MAX_HEADER:
        raise UserError(
            f"what goes with the arrays takes {len(text):,} bytes, and {MAX_HEADER:,} are read: "
            "fewer or shorter class names, or a smaller mean image, will do"
        )
    return struct.pack("<Q", len(text)) + text
