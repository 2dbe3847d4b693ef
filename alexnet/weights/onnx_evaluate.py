"""A run of an ONNX graph, operator by operator, on random images and with random weights.

It shows what the network computes, whatever its weights, which are collected on the way. Only
operators that AlexNet uses are run, and the size of each one's output is checked first. The `onnx`
package's reference evaluator runs them, except convolutions and pools, which take it seconds, and
LRN, which it gets wrong (onnx 1.23: over as many channels as images).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import show
from alexnet.weights import reference
from alexnet.weights.core import READABLE
from alexnet.weights.onnx_graph import Graph, package
from alexnet.weights.onnx_run import LARGEST, Run
from alexnet.weights.precision import to_fp32

BUDGET = 400 << 20  # bytes that a run may make; weights that the file holds come on top
_WORK = 20_000_000_000  # multiplications and additions in a run; AlexNet has 1.1 at 227 pixels
_IMAGES = 300.0  # at which LRN's sum of squares counts as much as its k
_MAX_INT = 1 << 20  # of attributes; a dense layer has 9,216 inputs
_SLOW = 10  # multiplications that take as long as one number of a window
_SHAPED = {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Equal"}  # by their operands, broadcast
_OTHERS = {
    "Cast", "Concat", "Constant", "Flatten", "Gather", "LogSoftmax", "MatMul", "Pad",
    "Reciprocal", "Relu", "Reshape", "Shape", "Slice", "Softmax", "Split", "Sqrt", "Squeeze",
    "Tanh", "Unsqueeze",
}  # fmt: skip
_CASTS = {1: 4, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # TensorProto.DataType to bytes
_FLOATS = {1, 10, 11, 16}
_ENDS = {"Softmax", "LogSoftmax"}


def run(graph: Graph, batch: int) -> tuple[Run, tuple[str, ...]]:
    """Run a graph on random images; return the findings and the names of unused constants.

    Raises:
        UserError: for a graph with other operators or more work than AlexNet, that can't be run,
            or that computes something from the image that its output does not need.
    """
    live, from_image, unused = _follow(graph)
    random = np.random.default_rng(0)
    images = np.empty((batch, graph.channels, graph.side, graph.side), np.float32)
    found = Run(graph, images, BUDGET, _WORK, random, from_image, {graph.image: images})
    found.spend(images.nbytes)  # before the pages of `images` are touched
    random.random(out=images, dtype=np.float32)
    images -= np.float32(0.5)
    images *= np.float32(2 * _IMAGES)
    output = graph.output
    if live and live[-1].op_type in _ENDS and live[-1].output[0] == output:
        softmax = live.pop()
        axes = {attribute.i for attribute in softmax.attribute if attribute.name == "axis"}
        if not axes <= {1, -1} or len(softmax.input) != 1:
            raise UserError("its softmax is not over classes")
        output = softmax.input[0]
    uses = Counter(name for node in live for name in _taken(node))
    with np.errstate(all="ignore"):
        for node in live:
            _step(found, node)
            for name in _taken(node):
                uses[name] -= 1
                if not uses[name] and name != output:
                    found.values.pop(name, None)
    found.reached["logits"] = found.value(output)
    return found, unused


def _taken(node: Any) -> Iterator[str]:
    """Names of all tensors that an operator uses, including in its branches."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from filter(None, inner.input)
        yield from (value.name for value in attribute.g.output)


def _follow(graph: Graph) -> tuple[list[Any], frozenset[str], tuple[str, ...]]:
    """The operators that the output needs, names that depend on the image, unused constants."""
    made_by: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        for name in filter(None, node.output):
            if name in made_by or name == graph.image or name in graph.tensors:
                raise UserError(f"two operators of it make {name[:50]!r}")
            made_by[name] = place
    needed: set[str] = set()
    wanted, live = [graph.output], set()
    while wanted:
        name = wanted.pop()
        maker = made_by.get(name)
        if name not in needed and maker is not None and maker not in live:
            live.add(maker)
            wanted += _taken(graph.nodes[maker])
        needed.add(name)
    from_image = {graph.image}
    unused = [name for name in graph.tensors if name not in needed and graph.tensors.is_float(name)]
    for place, node in enumerate(graph.nodes):
        if node.op_type != "Shape" and not from_image.isdisjoint(_taken(node)):
            from_image.update(node.output)
            if place not in live:
                raise UserError(f"its graph divides: nothing needs what {_show(node)} makes")
        if node.op_type == "Constant" and place not in live:
            floats = any(a.t.data_type not in (0, 7) or a.f or a.floats for a in node.attribute)
            unused += list(node.output) * floats
    return [graph.nodes[place] for place in sorted(live)], frozenset(from_image), tuple(unused)


def _show(node: Any) -> str:
    return repr(node.op_type[:50])


def _step(found: Run, node: Any) -> None:
    """Run one operator."""
    op = node.op_type
    if node.domain not in ("", "ai.onnx") or op not in {*_OWN, *_SHAPED, *_OTHERS}:
        raise UserError(f"it has an operation {_show(node)}, which AlexNet lacks")
    inputs = [found.value(name) for name in node.input]
    try:
        if op == "MatMul" and inputs[0].ndim == 2 and node.input[0] in found.from_image:
            results = _dense(found, node, *inputs)
        elif op == "Add" and found.unbiased.keys() & set(node.input):
            results = _biased(found, node, *inputs)
        elif op in _OWN:
            results = _OWN[op](found, node, *inputs)
        else:
            results = _evaluate(found, node, inputs)
    except UserError:
        raise
    except Exception as error:  # any: the library gets untrusted operands
        text = str(error)[:100] or type(error).__name__
        text = "".join(char if char.isprintable() else " " for char in text)
        raise UserError(f"its {_show(node)} can't be run: {text}") from error
    for name, value in zip(node.output, results, strict=False):
        if not isinstance(value, np.ndarray) or not (value.dtype.kind in "ib" or _floats(value)):
            raise UserError(f"its {_show(node)} makes no numbers")
        found.values[name] = value


def _floats(value: Any) -> bool:
    """Check for an array of floats, in any precision that is read."""
    return isinstance(value, np.ndarray) and value.dtype in READABLE


def _single(found: Run, value: Any) -> Any:
    """Floats as fp32, in which the run computes whatever the file's type; all else as it is."""
    if not _floats(value) or value.dtype == np.float32:
        return value
    found.spend(4 * value.size, found.left)
    return to_fp32(value)


def _evaluate(found: Run, node: Any, inputs: list[Any]) -> list[Any]:
    """Run an operator with the package's reference evaluator."""
    onnx = package()
    from onnx.reference import ReferenceEvaluator

    for attribute in node.attribute:
        bounds = node.op_type == "Slice" or (node.op_type == "Constant")
        numbers = () if bounds else (attribute.i, *attribute.ints)
        if attribute.HasField("g") or attribute.graphs or any(abs(n) > _MAX_INT for n in numbers):
            raise UserError(f"its {_show(node)} has an odd {attribute.name[:50]!r}")
    if node.op_type == "Reshape" and len(inputs) == 1:  # before version 5
        shape = np.array(_attributes(node)["shape"], np.int64)
        inputs, node = [*inputs, shape], onnx.helper.make_node("Reshape", ["x", "n"], node.output)
    inputs = [_single(found, x) for x in inputs]
    constant = found.from_image.isdisjoint(node.input)
    found.spend(_most(node, inputs), found.left if constant else LARGEST)
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    part = onnx.GraphProto(node=[node], output=outputs)
    evaluator = ReferenceEvaluator(part, opsets={"": max(7, found.graph.opset)})
    results = evaluator.run(None, dict(zip(node.input, inputs, strict=True)))
    return [_single(found, result) for result in results]


def _most(node: Any, inputs: Sequence[np.ndarray | None]) -> int:
    """An upper bound on the bytes that an operator makes."""
    given = [x for x in inputs if x is not None]
    size = sum(x.size for x in given)
    match node.op_type:
        case "Cast":
            return size * _CASTS[_attributes(node)["to"]]
        case "Gather":
            size = given[0].size * max(1, given[1].size)
        case "MatMul":  # of the image with a matrix; products cost as much as numbers
            lines = math.prod(given[0].shape[:-1]) * math.prod(given[1].shape[:-2])
            size = lines * given[1].shape[-1] * (1 + given[0].shape[-1] // 16)
        case "Pad":
            size = _padded(node, inputs)
        case op if op in _SHAPED:
            size = math.prod(np.broadcast_shapes(*(x.shape for x in given)))
    return size * max((x.itemsize for x in given), default=8)


def _padded(node: Any, inputs: Sequence[Any]) -> int:
    attributes = _attributes(node)
    pads = inputs[1] if len(inputs) > 1 else attributes.get("pads", attributes.get("paddings"))
    pads = np.asarray(pads).reshape(-1).tolist()
    half = len(pads) // 2
    axes = range(half) if len(inputs) < 4 or inputs[3] is None else inputs[3].reshape(-1).tolist()
    sizes = list(inputs[0].shape)
    for axis, before, after in zip(axes, pads[:half], pads[half:], strict=True):
        sizes[axis] += abs(before) + abs(after)
    return math.prod(sizes)


# --- operators that are run here: each takes its inputs and returns its outputs ---------------


def _attributes(node: Any) -> dict[str, Any]:
    get = package().helper.get_attribute_value
    return {attribute.name: get(attribute) for attribute in node.attribute}


def _geometry(node: Any, x: np.ndarray, window: Sequence[int]) -> tuple[list[int], list[int]]:
    """Strides and padding of a convolution or a pool."""
    values = _attributes(node)
    rank = len(window)
    if x.ndim != rank + 2 or {*values.get("dilations", [1])} != {1}:
        raise UserError(f"its {_show(node)} is dilated, or not for images")
    if values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"its {_show(node)} is padded by a rule that no variant has")
    strides = list(values.get("strides", [1] * rank))
    pads = list(values.get("pads", [0] * 2 * rank))
    if len(strides) != rank or len(pads) != 2 * rank or min(strides) < 1 or min(pads) < 0:
        raise UserError(f"its {_show(node)} is damaged: strides {strides[:6]}, pads {pads[:6]}")
    if values.get("ceil_mode"):  # as much padding as the last window that starts inside needs
        for axis, size in enumerate(x.shape[2:]):
            over = -(size + pads[axis] + pads[axis + rank] - window[axis]) % strides[axis]
            starts = size + pads[axis] + pads[axis + rank] + over - window[axis]
            pads[axis + rank] += over if starts < size + pads[axis] else 0
    return strides, pads


def _places(found: Run, x: np.ndarray, window: Sequence[int], strides: list, pads: list) -> int:
    """The number of windows in an image, whose padded copy is counted as made."""
    rank = len(window)
    sizes = [x.shape[2 + i] + pads[i] + pads[i + rank] for i in range(rank)]
    found.spend(4 * math.prod(x.shape[:2]) * math.prod(sizes))
    return math.prod((n - k) // s + 1 for n, k, s in zip(sizes, window, strides, strict=True))


def _conv(found: Run, node: Any, x: Any, kernel: Any, bias: Any = None) -> list[np.ndarray]:
    name = found.next_layer(True, x)
    if bias is None or bias.ndim != 1 or kernel.ndim != 4:
        raise UserError(f"its {name} has no bias, or is not for images")
    groups = _attributes(node).get("group", 1)
    strides, pads = _geometry(node, x, kernel.shape[2:])
    fits = groups > 0 and x.shape[1] == kernel.shape[1] * groups and len(kernel) % groups == 0
    if not fits or len(bias) != len(kernel):
        raise UserError(
            f"its {name} has a kernel of {show(kernel.shape)} in {groups} groups and "
            f"{bias.size} biases for an image of {show(x.shape)}"
        )
    places = _places(found, x, kernel.shape[2:], strides, pads) * len(x)
    made = 4 * places * (kernel[0].size * groups + len(kernel))
    found.spend(made, work=places * kernel.size)
    kernel = found.learn(name, "kernel", node.input[1], kernel, transpose=True)
    bias = found.learn(name, "bias", node.input[2], bias)
    return [reference.convolve(x, kernel, bias, strides, pads, groups)]


def _dense(found: Run, node: Any, x: Any, kernel: Any, bias: Any = None) -> list[np.ndarray]:
    """A Gemm, or a MatMul that gets its bias later."""
    name, values = found.next_layer(False, x), _attributes(node)
    gemm, transposed = node.op_type == "Gemm", bool(values.get("transB"))
    if values.get("transA") or (gemm and bias is None):
        raise UserError(f"its {name} has no bias, or transposes the image")
    if x.ndim != 2:
        raise UserError(f"its {name} takes {show(x.shape)} numbers, which are not flattened")
    fits = kernel.ndim == 2 and kernel.shape[transposed] == x.shape[1]
    if not fits or (gemm and bias.size != kernel.shape[1 - transposed]):
        raise UserError(f"its {name} is damaged: the kernel does not fit {x.shape[1]} inputs")
    found.spend(4 * len(x) * kernel.shape[1 - transposed], work=len(x) * kernel.size)
    kernel = found.learn(name, "kernel", node.input[1], kernel, transposed)
    x = (x @ (kernel.T if transposed else kernel)) * np.float32(values.get("alpha", 1.0))
    if not gemm:
        found.unbiased[node.output[0]] = name
        return [x]
    bias = found.learn(name, "bias", node.input[2], bias.reshape(-1))
    return [x + bias * np.float32(values.get("beta", 1.0))]


def _biased(found: Run, node: Any, *operands: Any) -> list[np.ndarray]:
    product = int(node.input[0] not in found.unbiased)
    x, bias, source = operands[product], operands[1 - product], node.input[1 - product]
    name = found.unbiased.pop(node.input[product])
    if bias.size != x.shape[1] or len(operands) != 2:
        raise UserError(f"its {name} is damaged: the bias does not fit {x.shape[1]} outputs")
    return [x + found.learn(name, "bias", source, bias.reshape(-1))]


def _batch_norm(found: Run, node: Any, x: Any, *own: Any) -> list[np.ndarray]:
    """Batch norm by running statistics, named after the learned layer that comes next."""
    name, values = f"bn{len(found.reached) + 1}", {"epsilon": 1e-5} | _attributes(node)
    if len(own) != 4 or {array.shape for array in own} != {x.shape[1:2]}:
        raise UserError(f"its {name} is damaged: it does not fit {show(x.shape)} numbers")
    if values.get("training_mode") or values.get("is_test") == 0:
        raise UserError(f"its {name} normalizes by the batch, as AlexNet does in training only")
    found.spend(16 * x.size)
    parts = zip(("scale", "shift", "mean", "variance"), node.input[1:], own, strict=True)
    drawn = [found.learn(name, part, source, array) for part, source, array in parts]
    return [reference.batch_norm(x, values["epsilon"], *drawn)]


def _pool(found: Run, node: Any, x: Any) -> list[np.ndarray]:
    values = _attributes(node)
    window, maximum = values["kernel_shape"], node.op_type == "MaxPool"
    strides, pads = _geometry(node, x, window)
    made = math.prod(x.shape[:2]) * _places(found, x, window, strides, pads)
    found.spend(4 * made, work=_SLOW * made * math.prod(window))
    axes = tuple(range(-len(window), 0))
    view = reference.windows(reference.pad(x, pads, -np.inf if maximum else 0.0), window, strides)
    if maximum:
        return [view.max(axes)]
    means = view.mean(axes, dtype=np.float32)
    if any(pads) and values.get("count_include_pad") and values.get("ceil_mode"):
        raise UserError("it has an average pool that rounds up and counts padding: none has both")
    if any(pads) and not values.get("count_include_pad"):  # only what is inside counts
        inside = reference.pad(np.ones((1, 1, *x.shape[2:]), np.float32), pads)
        means /= reference.windows(inside, window, strides).mean(axes, dtype=np.float32)
    return [means]


def _lrn(found: Run, node: Any, x: Any) -> list[np.ndarray]:
    values = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0} | _attributes(node)
    size = values["size"]
    if x.ndim != 4 or size < 1:
        raise UserError("its LRN is not over channels")
    padded = x.size // x.shape[1] * (x.shape[1] + size)
    found.spend(4 * (3 * x.size + padded), work=_SLOW * x.size * size)
    return [reference.normalize(x, size, values["alpha"], values["beta"], values["bias"])]


def _same(found: Run, node: Any, x: np.ndarray) -> list[np.ndarray]:
    return [x]


def _transposed(found: Run, node: Any, x: np.ndarray) -> list[np.ndarray]:
    """The axes in another order, as a view: weights stay what they are in the file."""
    return [x.transpose(_attributes(node).get("perm"))]


def _cast(found: Run, node: Any, x: np.ndarray) -> list[Any]:
    """Cast to another type; between precisions of floats, nothing changes here."""
    between = _attributes(node)["to"] in _FLOATS and _floats(x)
    return [x] if between else _evaluate(found, node, [x])


def _filled(found: Run, node: Any, shape: Any) -> list[np.ndarray]:
    """ConstantOfShape, as a view of one number, so that it takes no memory yet."""
    value = _attributes(node).get("value")
    number = np.zeros(1, np.float32) if value is None else package().numpy_helper.to_array(value)
    if shape.size > 8 or number.size != 1 or min(shape.reshape(-1).tolist(), default=0) < 0:
        raise UserError("its 'ConstantOfShape' has no shape")
    return [np.broadcast_to(number.reshape(()), shape.reshape(-1).tolist())]


def _dropout(found: Run, node: Any, x: Any, ratio: Any = None, training: Any = None) -> list:
    if training is not None and training.any():
        raise UserError("it drops units at random, as AlexNet does in training only")
    return [x]


def _if(found: Run, node: Any, condition: Any) -> list[Any]:
    """Run the branch that the condition, which may only depend on shapes, chooses."""
    if node.input[0] in found.from_image:
        raise UserError("it has an 'If' that looks at the image")
    name = "then_branch" if condition.reshape(()) else "else_branch"
    (graph,) = (attribute.g for attribute in node.attribute if attribute.name == name)
    for inner in graph.node:
        if inner.op_type == "If":
            raise UserError("it has an 'If' within another")
        _step(found, inner)
    return [found.value(output.name) for output in graph.output]


_OWN: dict[str, Callable[..., list[Any]]] = {
    "AveragePool": _pool, "BatchNormalization": _batch_norm, "Cast": _cast,
    "ConstantOfShape": _filled,
    "Conv": _conv, "Dropout": _dropout, "Gemm": _dense, "Identity": _same, "If": _if, "LRN": _lrn,
    "MaxPool": _pool, "Transpose": _transposed,
}  # fmt: skip
