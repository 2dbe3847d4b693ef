"""The state of a run of an ONNX graph: its remaining budget and its findings."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.core import READABLE
from alexnet.weights.layout import from_torch
from alexnet.weights.onnx_graph import Graph

_MOST = 8  # layers with kernels
LARGEST = 128 << 20  # bytes that one operator may make of the image


@dataclass
class Run:
    """The findings of a run: the weights, and the input of each layer that has some."""

    graph: Graph
    images: np.ndarray
    left: int  # bytes that it may still make
    work: int  # multiplications and additions that it may still do
    random: np.random.Generator
    from_image: frozenset[str]  # names of tensors that depend on the image
    values: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # the file's, canonical
    names: dict[str, str] = field(default_factory=dict)  # canonical to the file's
    drawn: dict[str, np.ndarray] = field(default_factory=dict)  # the random ones of the run
    reached: dict[str, np.ndarray] = field(default_factory=dict)  # layer, or "logits", to its input
    unbiased: dict[str, str] = field(default_factory=dict)  # a product's name to its dense layer

    def value(self, name: str) -> Any:
        """A tensor by name; None for an input that is left out."""
        if name and name not in self.values:
            if name not in self.graph.tensors:
                raise UserError(f"its {name[:50]!r} is not in the file, or comes too late in it")
            self.values[name] = self.graph.tensors[name]
        return self.values[name] if name else None

    def spend(self, size: int, largest: int = LARGEST, work: int = 0) -> None:
        """Count bytes that are about to be made, and work to be done."""
        self.work -= work
        if size > min(self.left, largest) or self.work < 0:
            raise UserError("its graph makes more of the image than AlexNet does")
        self.left -= size

    def learn(
        self, name: str, part: str, source: str, array: np.ndarray, transpose: bool = False
    ) -> np.ndarray:
        """Record an array as a layer's, and return a random one to run the layer with."""
        key = f"{name}.{part}"
        if array.dtype not in READABLE or source in self.from_image:
            raise UserError(f"the weights of its {name} are not constant floats")
        if key in self.arrays:
            raise UserError(f"its {name} has two arrays of the kind {part}")
        if 0 in array.strides:  # computed, and not as large as this in the file
            self.spend(array.nbytes, self.left)
        drawn = self.random.random(array.shape, np.float32)
        drawn -= np.float32(-0.5 if part in ("scale", "variance") else 0.5)
        if part == "kernel":  # of variance 2 / fan_in
            drawn *= np.float32((24 / (array[0].size if transpose else len(array))) ** 0.5)
        elif part not in ("scale", "variance"):
            drawn *= np.float32(100)
        self.names[key] = source
        self.arrays[key] = from_torch(key, array) if transpose else array
        self.drawn[key] = from_torch(key, drawn) if transpose else drawn
        return drawn

    def next_layer(self, conv: bool, x: np.ndarray) -> str:
        """The name of the next conv or dense layer, whose input is x."""
        number = len(self.reached) + 1
        if number > _MOST:
            raise UserError(f"it has more than the {_MOST} conv and dense layers of AlexNet")
        name = f"conv{number}" if conv else f"fc{number}"
        self.reached[name] = x
        return name
