"""LRN written out in other operators, recognised by what they compute.

torch's exporters have no LRN: they square the image, make its channels an axis of their own, pad
it, average along it, and divide by a power; nn.LocalResponseNorm becomes a dozen operators or, with
what computes their shapes, sixty. Instead of comparing graphs, the operators are applied to a
description of the image, and what comes out is LRN or is not.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from alexnet.layers import LRN
from alexnet.weights.onnx_graph import SMALL, Node
from alexnet.weights.onnx_shapes import RESHAPING, new_shape, ranges, shape_of


@dataclass(frozen=True)
class Signal:
    """A tensor as a function of an image x, the same at every number of it.

    x ** times * (constant + sum of factor * (x ** 2, `shift` channels further)) ** power, with
    zeros outside of the channel's group, as long as the numbers stand in x's own order.
    """

    shape: tuple[int, ...]
    area: int  # height times width of the image: how far apart its channels stand
    channels: tuple[int, int]  # those of the image that it has, from and to
    group: int = 0  # channels in a group; 0 before anything was shifted
    times: int = 1
    squares: dict[int, float] = field(default_factory=dict)  # shift to factor
    constant: float = 1.0
    power: float = 1.0
    padding: tuple[int, int] | None = None  # an axis that is longer by zeros, and how many before

    @property
    def plain(self) -> bool:
        """Whether this is the image itself."""
        return self.times == 1 and not self.squares

    @property
    def linear(self) -> bool:
        """Whether this is a sum of squares."""
        return self.times == 0 and self.power == 1


def image(shape: tuple[int, ...]) -> Signal:
    """The image, (batch, channels, height, width) or, flattened, (batch, features)."""
    return Signal(shape, math.prod(shape[2:]), (0, shape[1]))


def as_lrn(signal: Signal) -> LRN | None:
    """The LRN that a signal is, or None."""
    size, count = len(signal.squares), signal.channels[1] - signal.channels[0]
    wanted = range(-(size // 2), size - size // 2)  # torch's; even sizes lean to the front
    factors = list(signal.squares.values())
    if signal.times != 1 or not size or signal.padding or sorted(signal.squares) != list(wanted):
        return None
    numbers = (size * factors[0], -signal.power, signal.constant)
    even = all(math.isclose(factor, factors[0], rel_tol=1e-6) for factor in factors)
    if not even or not all(map(math.isfinite, numbers)):
        return None
    return LRN(size, *numbers, groups=count // (signal.group or count))


Value = Signal | np.ndarray
Inputs = Sequence[Value | None]  # None for inputs that are left out


def follow(node: Node, inputs: Inputs) -> list[Value] | None:
    """What an operator makes of signals and constants; None for one that is no part of LRN."""
    if node.op not in FOLLOWED or not inputs:
        return None
    try:
        result = FOLLOWED[node.op](node, *inputs)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None  # operands of another kind, or of sizes that don't fit
    return result if result is None or isinstance(result, list) else [result]


# --- arithmetic, each with None for what leaves the formula above ----------------------------


def _number(value: Value | None) -> float | None:
    """A constant of one number, which changes no shape; None for all else."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= 1:
        return float(value.reshape(()))
    return None


def _square(x: Signal) -> Signal | None:
    plain = x.plain and x.padding is None
    return replace(x, times=0, squares={0: 1.0}, constant=0.0) if plain else None


def _multiply(_: Node, x: Value, y: Value) -> Signal | None:
    if isinstance(x, Signal) and isinstance(y, Signal):
        return _product(x, y)
    signal, number = (x, _number(y)) if isinstance(x, Signal) else (y, _number(x))
    if number is None or not signal.linear:
        return None
    squares = {shift: factor * number for shift, factor in signal.squares.items()}
    return replace(signal, squares=squares, constant=signal.constant * number)


def _product(x: Signal, y: Signal) -> Signal | None:
    if x.shape != y.shape or x.channels != y.channels or x.padding or y.padding:
        return None
    if x.plain and y.plain:
        return _square(x)
    if x.plain or y.plain:
        other = y if x.plain else x
        return replace(other, times=1) if other.times == 0 else None
    same = (x.squares, x.constant, x.group) == (y.squares, y.constant, y.group)
    return replace(x, power=x.power + y.power) if same and x.times + y.times == 0 else None


def _power(x: Value, exponent: float | None) -> Signal | None:
    if not isinstance(x, Signal) or exponent is None:
        return None
    if x.plain:
        return _square(x) if exponent == 2 else None
    return replace(x, power=x.power * exponent) if x.times == 0 and not x.padding else None


def _divide(node: Node, x: Value, y: Value) -> Signal | None:
    if isinstance(y, Signal):
        inverse = _power(y, -1.0)
        one = _number(x) == 1
        return inverse if one or inverse is None else _multiply(node, x, inverse)
    number = _number(y)
    return _multiply(node, x, np.array(1 / number)) if number else None


def _add(_: Node, x: Value, y: Value) -> Signal | None:
    if isinstance(x, Signal) and isinstance(y, Signal):
        places = [(s.shape, s.channels, s.group, s.padding, s.linear) for s in (x, y)]
        if places[0] != places[1] or x.padding or not x.linear:
            return None
        shifts = {*x.squares, *y.squares}
        squares = {s: x.squares.get(s, 0.0) + y.squares.get(s, 0.0) for s in shifts}
        return replace(x, squares=squares, constant=x.constant + y.constant)
    signal, number = (x, _number(y)) if isinstance(x, Signal) else (y, _number(x))
    if number is None or not signal.linear or signal.padding:
        return None
    return replace(signal, constant=signal.constant + number)


# --- shifts along the channels ---------------------------------------------------------------


def _reshape(node: Node, x: Signal, given: np.ndarray | None = None) -> Signal | None:
    return None if x.padding else replace(x, shape=new_shape(node, x.shape, given))


def _pad(
    node: Node,
    x: Signal,
    given: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> Signal | None:
    pads = node.ints("pads", []) if given is None else given.reshape(-1).tolist()
    rank = len(x.shape)
    axes = range(rank) if axes is None else [axis % rank for axis in axes.reshape(-1).tolist()]
    before, after = pads[: len(axes)], pads[len(axes) :]
    changed = [row for row in zip(axes, before, after, strict=True) if any(row[1:])]
    if not changed:
        return x
    axis, first, last = changed[0]
    zeros = node.text("mode", "constant") == "constant" and not node.number("value", 0.0)
    zeros = zeros and (value is None or _number(value) == 0)
    fresh = x.linear and not x.constant and not x.padding and [*x.squares] == [0]
    if len(changed) > 1 or min(first, last) < 0 or max(first, last) > SMALL or not zeros:
        return None
    size = x.shape[axis]
    along = math.prod(x.shape[axis + 1 :]) == x.area and (x.channels[1] - x.channels[0]) % size == 0
    if not fresh or not along:
        return None
    shape = (*x.shape[:axis], size + first + last, *x.shape[axis + 1 :])
    return replace(x, shape=shape, group=size, padding=(axis, first))


def _shifted(x: Signal, places: range, factor: float) -> Signal:
    """The sum of a padded signal's copies that begin at these places of its padded axis."""
    axis, before = x.padding
    squares: dict[int, float] = {}
    for place in places:
        for shift, weight in x.squares.items():
            shift += place - before
            squares[shift] = squares.get(shift, 0.0) + factor * weight
    shape = (*x.shape[:axis], x.group, *x.shape[axis + 1 :])
    return replace(x, shape=shape, squares=squares, padding=None)


def _average(node: Node, x: Signal) -> Signal | None:
    """AveragePool along the channels; that of images is another thing."""
    kernel = node.ints("kernel_shape", [])
    other = {*node.ints("strides", [1]), *node.ints("dilations", [1])} - {1}
    if not x.padding or any(node.ints("pads", [0])) or node.text("auto_pad", "NOTSET") != "NOTSET":
        return None
    axis = x.padding[0]
    sizes = {place: size for place, size in enumerate(kernel, 2) if size != 1}
    size = sizes.get(axis, 0)
    if other or [*sizes] != [axis] or x.shape[axis] - size + 1 != x.group:
        return None
    return _shifted(x, range(size), 1 / size)


def _slice(_: Node, x: Signal, *bounds: np.ndarray | None) -> Signal | None:
    taken = ranges(x.shape, *bounds)
    changed = [axis for axis, part in enumerate(taken) if part != slice(0, x.shape[axis], 1)]
    if not changed:
        return x
    axis, part = changed[0], taken[changed[0]]
    if len(changed) > 1 or part.step != 1:
        return None
    if not x.padding:
        return _part(x, axis, part.start, part.stop)
    if axis != x.padding[0] or part.stop - part.start != x.group:
        return None
    return _shifted(x, range(part.start, part.start + 1), 1.0)


def _part(x: Signal, axis: int, start: int, stop: int) -> Signal | None:
    """Some of the image's channels."""
    first, last = x.channels
    own = axis == 1 and x.shape[1] == last - first and math.prod(x.shape[2:]) == x.area
    if not x.plain or not own or not start < stop:
        return None
    shape = (x.shape[0], stop - start, *x.shape[2:])
    return replace(x, shape=shape, channels=(first + start, first + stop))


def _split(node: Node, x: Signal, given: np.ndarray | None = None) -> list[Signal] | None:
    axis = node.ints("axis", [0])[0] % len(x.shape)
    size, count = x.shape[axis], len(node.outputs)
    equal = -(-size // count)  # the last one is smaller where they can't be equal
    sizes = node.ints("split", []) if given is None else given.reshape(-1).tolist()
    sizes = sizes or [min(equal, size - equal * n) for n in range(count)]
    if len(sizes) != count or sum(sizes) != size or x.padding:
        return None
    ends = np.cumsum(sizes).tolist()
    parts = [_part(x, axis, end - n, end) for n, end in zip(sizes, ends, strict=True)]
    return None if None in parts else parts


def _join(node: Node, *parts: Signal) -> Signal | None:
    """Neighbouring channels in one tensor again, after the same was done to each."""
    if node.ints("axis", [0])[0] % len(parts[0].shape) != 1:
        return None
    same = [replace(part, shape=(), channels=(0, 0)) for part in parts]
    apart = any(x.channels[1] != y.channels[0] for x, y in itertools.pairwise(parts))
    whole = all(part.shape[1] == part.channels[1] - part.channels[0] for part in parts)
    if apart or not whole or any(one != same[0] for one in same) or parts[0].padding:
        return None
    channels = (parts[0].channels[0], parts[-1].channels[1])
    if len({(part.shape[0], *part.shape[2:]) for part in parts}) != 1:
        return None
    shape = (parts[0].shape[0], channels[1] - channels[0], *parts[0].shape[2:])
    return replace(parts[0], shape=shape, channels=channels)


def _lrn(node: Node, x: Signal) -> Signal | None:
    """ONNX's own operator, over the second axis."""
    size = node.ints("size", [0])[0]
    alpha, beta, k = (
        node.number(name, default)
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    along = math.prod(x.shape[2:]) == x.area and (x.channels[1] - x.channels[0]) % x.shape[1] == 0
    if not x.plain or not along or not 1 <= size <= SMALL:
        return None
    first = (size - 1) // 2
    squares = dict.fromkeys(range(-first, size - first), alpha / size)
    return replace(x, group=x.shape[1], squares=squares, constant=k, power=-beta)


FOLLOWED: dict[str, Callable[..., Value | list[Value] | None]] = {
    "Add": _add,
    "AveragePool": _average,
    "Cast": lambda node, x: x if node.ints("to", [0])[0] == 1 else None,  # to fp32, as it is
    "Concat": _join,
    "Div": _divide,
    "LRN": _lrn,
    "Mul": _multiply,
    "Pad": _pad,
    "Pow": lambda _, x, exponent: _power(x, _number(exponent)),
    "Reciprocal": lambda _, x: _power(x, -1.0),
    "Shape": lambda node, x: shape_of(node, x.shape),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda _, x: _power(x, 0.5),
} | dict.fromkeys(RESHAPING, _reshape)
