"""bvlc_alexnet.npy, the weights of Toronto's TensorFlow AlexNet: a pickled dict in a .npy file.

It maps layers to [kernel, bias], HWIO and (in, out), with fc6 rows in H, W, C order already and
conv1 for B, G, R inputs: caffe-tensorflow wrote it from bvlc_alexnet. Files with
{'weights', 'biases'} in place of the list come from later versions of that program.
"""

import ast
import math
import struct
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.assemble import Found
from alexnet.weights.names import CAFFE_LAYERS
from alexnet.weights.pickles import Buildable, Function, LongText, Reader, refuse

_MAX_HEADER = 10_000  # bytes, as in NumPy itself
MAGIC = b"\x93NUMPY"


def read(data: memoryview) -> Found:
    """What the file holds.

    Raises:
        UserError: for a file that is damaged, would run code, or holds something else.
    """
    value = Reader(data, _find, start=_after_header(data)).load()
    table = _item(value)
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    extra = []
    for layer, pair in table.items():
        name = CAFFE_LAYERS.get(layer) if isinstance(layer, str) else None
        if name is None:
            extra.append(str(layer)[:100])
            continue
        for part, array in zip(("kernel", "bias"), _pair(layer, pair), strict=True):
            arrays[f"{name}.{part}"] = array
            names[f"{name}.{part}"] = f"{layer} {part}"
    return Found(arrays, names, tuple(extra), flatten="HWC", colors="BGR", variants=("caffe",))


def _after_header(data: memoryview) -> int:
    """Where the pickle starts, after a header that says that there is one."""
    if bytes(data[:6]) != MAGIC or len(data) < 12:
        raise UserError("it is not a .npy file")
    form = "<H" if data[6] == 1 else "<I"
    (length,) = struct.unpack_from(form, data, 8)
    start = 8 + struct.calcsize(form) + length
    if length > _MAX_HEADER or start > len(data):
        raise UserError("it is damaged: the header of the .npy file does not end")
    text = bytes(data[start - length : start]).decode("latin-1")
    try:
        header = ast.literal_eval(text)
        described = (header["descr"], header["shape"])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise UserError("it is damaged: the header of the .npy file is unreadable") from error
    if described not in (("|O", ()), ("|O", (1,)), ("O", ())):
        raise UserError("it is a .npy file of a plain array: a dict of layers is needed")
    return start


def _item(value: Any) -> dict[Any, Any]:
    """The dict in an array of one object."""
    if isinstance(value, _Array) and isinstance(value.content, list) and len(value.content) == 1:
        value = value.content[0]
    if not isinstance(value, dict):
        raise UserError("it is a .npy file without a dict of layers")
    return value


def _pair(layer: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    match value:
        case [_Array(content=np.ndarray()), _Array(content=np.ndarray())]:
            return value[0].content, value[1].content
        case {"weights": _Array(content=np.ndarray()), "biases": _Array(content=np.ndarray())}:
            return value["weights"].content, value["biases"].content
    raise UserError(f"its layer {layer} is not a kernel and a bias")


# --- NumPy's objects as pickles describe them ------------------------------------------------


class _Dtype(Buildable):
    """A type by its code ('f4'); its state holds the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise UserError("its numbers are big-endian, which is not read")


class _Array(Buildable):
    """An array before and after its state: (version, shape, type, column-major, bytes)."""

    __match_args__ = ("content",)

    def __init__(self, *_: Any) -> None:
        self.content: np.ndarray | list[Any] | None = None

    def build(self, state: Any) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(), bool() | int(), list()) if state[2].code[0] == "O":
                self.content = state[4]
                return
            case (int(), tuple(shape), _Dtype(), bool() | int(), bytes() | str() | memoryview()):
                pass
            case _:
                raise UserError("it is damaged: an array's description is none")
        raw = state[4].encode("latin-1") if isinstance(state[4], str) else state[4]
        sizes = all(type(n) is int and 0 <= n < 1 << 40 for n in shape) and len(shape) <= 8
        if state[2].code not in ("f4", "f8", "f2", "i8", "i4"):
            raise UserError(f"its arrays are of type {state[2].code[:20]!r}, not fp32")
        flat = np.frombuffer(raw, "<" + state[2].code)
        if not sizes or math.prod(shape) != len(flat):
            raise UserError("it is damaged: an array's shape is not its size")
        self.content = flat.reshape(shape, order="F" if state[3] else "C")


def _find(module: str, name: str) -> Any:
    """What a name in NumPy's pickles stands for here."""
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
        return Function(_Array)
    known = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): Function(_Dtype),
        ("_codecs", "encode"): Function(_encode),
    }
    if (module, name) not in known:
        raise refuse(module, name)
    return known[module, name]


def _encode(value: Any, encoding: Any) -> bytes | memoryview:
    """How Python 3 writes bytes in protocol 2."""
    if not isinstance(value, str | LongText) or encoding != "latin1":
        raise UserError("it is damaged: its pickle encodes what is no text")
    return value.latin1 if isinstance(value, LongText) else value.encode("latin-1")
