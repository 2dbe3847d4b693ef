"""bvlc_alexnet.npy, the weights of Toronto's TensorFlow AlexNet: a pickled dict in a .npy file.

It maps layers to [kernel, bias], HWIO and (in, out), with fc6 rows in H, W, C order already and
conv1 for B, G, R inputs: caffe-tensorflow wrote it from bvlc_alexnet. Files with
{'weights', 'biases'} in place of the list come from later versions of that program.
"""

import io
import math
import tokenize
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from alexnet.errors import UserError
from alexnet.weights.assemble import Found
from alexnet.weights.names import CAFFE_LAYERS
from alexnet.weights.pickles import Buildable, Names, load

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # bytes, as in NumPy itself
_BAD_HEADER = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError)


def read(file: BinaryIO) -> Found:
    """Read the layers in a file.

    Args:
        file: a regular file, open at its start.

    Raises:
        UserError: for a file that is damaged, would run code, or holds something else.
    """
    size = file.seek(0, 2)
    _skip_header(file)
    value = load(file, _names(size), encoding="bytes")  # Python 2's arrays are byte strings
    if isinstance(value, _Array) and isinstance(value.content, list) and len(value.content) == 1:
        value = value.content[0]
    if not isinstance(value, dict):
        raise UserError("it is a .npy file without a dict of layers")
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    extra = []
    for key, pair in value.items():
        layer = _text(key) if isinstance(key, bytes) else str(key)
        name = CAFFE_LAYERS.get(layer)
        if name is None:
            extra.append(layer[:100])
            continue
        for part, array in zip(("kernel", "bias"), _pair(layer, pair), strict=True):
            arrays[f"{name}.{part}"] = array
            names[f"{name}.{part}"] = f"{layer} {part}"
    return Found(arrays, names, tuple(extra), flatten="HWC", colors="BGR", variants=("caffe",))


def _skip_header(file: BinaryIO) -> None:
    """Seek to the pickle, past a header that announces one."""
    shape, _, dtype = read_header(file)
    if dtype != np.dtype(object) or shape not in ((), (1,)):
        raise UserError("it is a .npy file of a plain array: a dict of layers is needed")


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read a .npy header: shape, column-major order, and type; leave the file at its end.

    Raises:
        UserError: for an invalid header.
    """
    file.seek(0)
    head = io.BytesIO(file.read(_MAX_HEADER + 12))
    try:
        version = npy.read_magic(head)
        parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        header = parse(head, max_header_size=_MAX_HEADER)
    except _BAD_HEADER as error:
        raise UserError("corrupt .npy file: invalid header") from error
    file.seek(head.tell())
    return header


def _pair(layer: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(value, dict):
        named = {_text(key): part for key, part in value.items()}
        value = [named.get("weights"), named.get("biases")]
    match value:
        case [_Array(content=np.ndarray() as kernel), _Array(content=np.ndarray() as bias)]:
            return kernel, bias
    raise UserError(f"its layer {layer} is not a kernel and a bias")


# --- NumPy's objects as pickles describe them ------------------------------------------------


def _text(value: Any) -> str:
    """A string, which Python 2 wrote as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise UserError("corrupt pickle: a name is not a string")
    return value


class _Dtype(Buildable):
    """A type by its code ('f4'); its state holds the byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = _text(code)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or _text(state[1]) not in ("<", "|", "="):
            raise UserError("its numbers are big-endian, which is not read")


class _Array(Buildable):
    """An array before and after its state: (version, shape, type, column-major, bytes)."""

    __slots__ = ("content",)

    def __init__(self, *_: Any) -> None:
        self.content: np.ndarray | list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(code=code), bool() | int() as columns, content):
                pass
            case _:
                raise UserError("corrupt pickle: invalid array")
        if code.startswith("O") and isinstance(content, list):
            self.content = content
            return
        if code not in ("f4", "f8", "f2", "i8", "i4"):
            raise UserError(f"its arrays are of type {code[:20]!r}, not fp32")
        if not isinstance(content, bytes) or len(shape) > 8:
            raise UserError("corrupt pickle: invalid array")
        sizes = all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
        if not sizes or math.prod(shape) * int(code[1]) != len(content):
            raise UserError("corrupt pickle: an array's shape does not fit its size")
        flat = np.frombuffer(content, f"<{code}")
        self.content = flat.reshape(shape, order="F" if columns else "C")


def _names(left: int) -> Names:
    """Stand-ins for the names in NumPy's pickles; `encode` may make `left` bytes in all.

    Python 3 writes bytes as text in protocol 2, and a pickle can have one text encoded many times.
    """

    def encode(text: Any, encoding: Any) -> bytes:
        nonlocal left
        if not isinstance(text, str) or encoding != "latin1":
            raise UserError("corrupt pickle: it encodes something that is not text")
        left -= len(text)
        if left < 0:
            raise UserError("corrupt pickle: it makes more bytes than its file has")
        return text.encode("latin-1")

    return {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): encode,
    }
