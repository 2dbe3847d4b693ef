"""The arithmetic on shapes in ONNX graphs, computed: what torch's exporters write around a reshape.

Its arrays are small: shapes, paddings, the numbers of a formula.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from alexnet.weights import wire
from alexnet.weights.onnx_graph import SMALL, Node, Tensors

_CASTS = {1: "<f4", 6: "<i8", 7: "<i8", 9: "?"}  # by TensorProto.DataType
RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def compute(node: Node, inputs: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The output of an operator on small arrays; None where it is not known or not possible."""
    if node.op not in COMPUTED or not inputs or inputs[0] is None:
        return None
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(COMPUTED[node.op](node, *inputs))
    except (ValueError, LookupError, TypeError, ArithmeticError):  # NumPy's, for unfit shapes
        return None
    return value if value.size <= SMALL and value.ndim <= 8 else None


def new_shape(node: Node, shape: tuple[int, ...], given: np.ndarray | None) -> tuple[int, ...]:
    """A tensor's shape after one of `RESHAPING`.

    Args:
        node: the operator.
        shape: before it.
        given: its second input, or None for what older files have as an attribute.

    Raises:
        ValueError: where the numbers do not fit.
    """
    name = "shape" if node.op == "Reshape" else "axes"
    numbers = node.ints(name, []) if given is None else [int(n) for n in given.reshape(-1)]
    rank = len(shape) + (len(numbers) if node.op == "Unsqueeze" else 0)
    axes = {axis % rank for axis in numbers} if rank else set()
    if node.op == "Identity":
        return shape
    if node.op == "Flatten":
        axis = node.ints("axis", [1])[0] % (len(shape) + 1)
        return math.prod(shape[:axis]), math.prod(shape[axis:])
    if node.op == "Unsqueeze":
        rest = iter(shape)
        return tuple(1 if axis in axes else next(rest) for axis in range(rank))
    if node.op == "Squeeze":
        axes = axes or {axis for axis in range(rank) if shape[axis] == 1}
        if any(shape[axis] != 1 for axis in axes):
            raise ValueError("only axes of one can be taken away")
        return tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return _reshaped(shape, numbers, keep_zeros=bool(node.ints("allowzero", [0])[0]))


def _reshaped(shape: tuple[int, ...], wanted: list[int], keep_zeros: bool) -> tuple[int, ...]:
    """What Reshape makes of sizes of 0, the old one, and -1, what is left."""
    sizes = [shape[i] if n == 0 and not keep_zeros else n for i, n in enumerate(wanted[:8])]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known:
        sizes[sizes.index(-1)] = math.prod(shape) // known
    if min(sizes, default=1) < 0 or math.prod(sizes) != math.prod(shape):
        raise ValueError("a shape that has another size")
    return tuple(sizes)


def ranges(
    shape: tuple[int, ...], starts: np.ndarray, ends: np.ndarray, *more: np.ndarray | None
) -> list[slice]:
    """The slice of each axis that Slice's inputs say; `more` are axes and steps."""
    axes, steps = (*more, None, None)[:2]
    count = starts.size
    axes = range(count) if axes is None else axes.reshape(-1).tolist()
    steps = [1] * count if steps is None else steps.reshape(-1).tolist()
    taken = [slice(0, size, 1) for size in shape]
    bounds = zip(axes, starts.reshape(-1), ends.reshape(-1), steps, strict=True)
    for axis, start, end, step in bounds:
        first, last, step = slice(int(start), int(end), step).indices(shape[axis])
        taken[axis] = slice(first, last if step > 0 or last >= 0 else None, step)
    return taken


def _slice(_: Node, x: np.ndarray, *bounds: np.ndarray | None) -> np.ndarray:
    return x[tuple(ranges(x.shape, *bounds))]


def _reshape(node: Node, x: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    return x.reshape(new_shape(node, x.shape, given))


def shape_of(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    """The output of Shape, which may take a part of it."""
    start, end = node.ints("start", [0])[0], node.ints("end", [len(shape)])[0]
    return np.array(shape[start:end], "<i8")


def _filled(node: Node, sizes: np.ndarray) -> np.ndarray:
    """ConstantOfShape: of zeros where it does not say of what."""
    if math.prod(map(int, sizes)) > SMALL:
        raise ValueError("not small")
    values = wire.messages(node.attributes.get("value", {}), 5)
    fill = np.float32(0)
    if values:
        fill = Tensors({"value": wire.parse(values[-1])}, None).array("value").reshape(-1)[0]
    return np.full([int(size) for size in sizes], fill)


def _divide(_: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x // y if x.dtype.kind == "i" else x / y


COMPUTED: dict[str, Callable[..., np.ndarray]] = {
    "Add": lambda _, x, y: x + y,
    "Cast": lambda node, x: x.astype(_CASTS[node.ints("to", [0])[0]]),
    "Concat": lambda node, *parts: np.concatenate(parts, node.ints("axis", [0])[0]),
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": lambda _, x, y: x == y,
    "Gather": lambda node, x, places: np.take(x, places, node.ints("axis", [0])[0]),
    "Mod": lambda _, x, y: x % y,
    "Mul": lambda _, x, y: x * y,
    "Shape": lambda node, x: shape_of(node, x.shape),
    "Slice": _slice,
    "Sub": lambda _, x, y: x - y,
    "Transpose": lambda node, x: x.transpose(node.ints("perm", [*range(x.ndim)][::-1])),
} | dict.fromkeys(RESHAPING, _reshape)
