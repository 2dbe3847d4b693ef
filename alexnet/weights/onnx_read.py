"""ONNX files: the zoo's bvlcalexnet, exports from torch, and the files of `onnx_write`.

A network is recognized by what it computes: the graph is run, and must agree with one of the
variants at every layer.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.files import read_all
from alexnet.layers import Spec, show, variables
from alexnet.preprocess import from_json as preprocess_from_json
from alexnet.spec import VARIANTS
from alexnet.weights import reference, table
from alexnet.weights.assemble import CAFFE_VARIANTS, Found
from alexnet.weights.network import fit, sized
from alexnet.weights.onnx_evaluate import run
from alexnet.weights.onnx_graph import Graph, read_graph
from alexnet.weights.onnx_run import Run
from alexnet.weights.precision import to_fp32

# Relative to the spread of a layer's input. Rounding makes 2e-6 of it; LRN over neighbours padded
# with ones, not zeros, 4e-5; one of its numbers off by a percent, 1e-3 and more.
TOLERANCE = 1e-5
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QGemm",
              "ConvInteger", "MatMulInteger"}  # fmt: skip
# The keys of ModelProto's fields, as they follow its first one, the version.
_KEYS = bytes([*(number << 3 | 2 for number in (2, 3, 4, 6, 7, 8, 14)), 5 << 3])


def looks_like(head: bytes | memoryview) -> bool:
    """Check whether a file that begins with `head` is an ONNX model: its version comes first."""
    return len(head) > 2 and head[0] == 1 << 3 and head[1] < 0x80 and head[2] in _KEYS


def read(file: BinaryIO, folder: Path | None = None) -> Found:
    """Read a network and its weights from a file that is open at its start.

    Large exports keep their weights in a second file in its folder.

    Raises:
        UserError: for a file that is damaged, quantized, or another network.
    """
    graph = read_graph(read_all(file), folder)
    _refuse_quantized(graph)
    found, unused = _run(graph)
    own = graph.metadata
    spec = _recognize(graph, found, own.get("spec", {}))
    # Caffe2's conversions of Caffe's files take B, G, R; torch's and this project's, R, G, B.
    caffe = spec.name in CAFFE_VARIANTS and not own and not graph.producer.startswith("pytorch")
    preprocess = preprocess_from_json(own["preprocess"], graph.channels) if own else None
    return Found(
        {name: _whole(array) for name, array in found.arrays.items() if name not in
         _superfluous(found, spec)}, found.names, unused,
        colors="BGR" if caffe else "RGB", spec=spec, preprocess=preprocess,
        class_names=own.get("class_names"),
        mean_image=own.get("mean_image", False),
    )  # fmt: skip


def _superfluous(found: Run, spec: Spec) -> set[str]:
    """Scales of one and shifts of zero: ONNX has them where a batch norm of `spec` has none."""
    plain = {"scale": 1, "shift": 0}
    return {
        name for name, array in found.arrays.items()
        if name not in variables(spec) and (to_fp32(array) == plain.get(name.split(".")[1])).all()
    }  # fmt: skip


def _whole(array: np.ndarray) -> np.ndarray:
    """An array with memory for each of its numbers: ConstantOfShape gives one that repeats."""
    return array.copy() if 0 in array.strides and array.size > 1 else array


def _refuse_quantized(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            raise UserError(
                f"it is quantized to 8 bits ({node.op_type[:50]!r}), which rounded its weights for "
                "good: read the fp32 file that it was made from (in the zoo, bvlcalexnet-12.onnx "
                "for -12-int8 and -12-qdq)"
            )


def _run(graph: Graph) -> tuple[Run, tuple[str, ...]]:
    """Run a graph on one image, or on as many as it is made for if it needs them."""
    try:
        return run(graph, 1)
    except UserError:
        if graph.batch <= 1:
            raise
        return run(graph, graph.batch)


def _recognize(graph: Graph, found: Run, described: Mapping[str, Any]) -> Spec:
    """The network that agrees at each layer; the one described is tried before variants.

    Raises:
        UserError: naming the nearest variant and where the graph differs from it.
    """
    shapes = {name: array.shape for name, array in found.arrays.items()}
    parted = []
    for spec in _candidates(graph, found, described):
        difference = first_difference(spec, found)
        if difference is None:
            return spec
        parted.append((*difference, spec.name))
    if not parted:
        try:
            return fit(shapes, tuple(VARIANTS), graph.side)  # whose shapes are refused later
        except UserError as error:
            raise UserError("its network is none that this program has") from error
    _, _, words, name = max(parted)
    raise UserError(f"its network is none that this program has: nearest is '{name}', but {words}")


def first_difference(spec: Spec, found: Run) -> tuple[int, float, str] | None:
    """The first layer where graph and variant differ: its place, minus how far, and in words."""
    for place, (layer, expected) in enumerate(reference.forward(spec, found.drawn, found.reached)):
        where = "what comes out" if layer == "logits" else f"what reaches its {layer}"
        given = found.reached[layer]
        if given.shape != expected.shape:
            return place, -np.inf, f"{where} is {show(given.shape)}, not {show(expected.shape)}"
        spread = expected.std() or 1.0  # tanh of such large numbers may be 1 everywhere
        apart = float(np.abs(given - expected).max() / spread)
        if not apart <= TOLERANCE:  # nor for NaN
            return place, -np.nan_to_num(apart), f"{where} is off by {apart:.2g} of its spread"
    return None


def _candidates(graph: Graph, found: Run, described: Mapping[str, Any]) -> Iterator[Spec]:
    """The networks that have arrays of these shapes, the likeliest first.

    At a variant's own image size, a file is that variant, not another that merely equals it.
    """
    shapes = {name: array.shape for name, array in found.arrays.items()}

    def has(spec: Spec) -> bool:
        wanted = {name: variable.shape for name, variable in variables(spec).items()}
        return wanted == {n: shapes[n] for n in shapes.keys() - _superfluous(found, spec)}

    if "layers" in described:
        own = table.from_json(described)
        if own.image_size == graph.side and has(own):  # a file may describe anything
            yield own
    first = described.get("name", described.get("variant"))

    def likeliest(name: str) -> tuple[bool, bool]:
        return name != first, VARIANTS[name].image_size != graph.side

    for name in sorted(VARIANTS, key=likeliest):
        try:
            spec = sized(VARIANTS[name], shapes, graph.side)
        except UserError:  # an image too small for this one
            continue
        if has(spec):
            yield spec
