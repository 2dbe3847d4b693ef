"""The network that the page runs: logits and layer outputs for pictures, in batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet.data.dataset import Source
from alexnet.data.inputs import normalized
from alexnet.data.pipeline import BadImages, Batch, Loading, eval_batches
from alexnet.engine import Engine, import_framework, load_engine
from alexnet.errors import RunError
from alexnet.layers import Conv, Dense, Spec, trace
from alexnet.weights import Weights

BATCH = 64
Outputs = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Subset:
    """Some examples of a source, under new numbers."""

    source: Source
    indices: np.ndarray  # integers, ascending

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple:
        return self.source[int(self.indices[index])]

    def describe(self, index: int) -> str:
        """The example's own name."""
        return self.source.describe(int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class Network:
    """Weights on a framework's devices."""

    weights: Weights
    framework: str
    engine: Engine

    def logits(self, views: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, classes], of uint8 views [N, S, S, C]."""
        found = []
        for start in range(0, len(views), BATCH):
            part = views[start : start + BATCH]
            found.append(self.engine.logits(_padded(part))[: len(part)])
        return np.concatenate(found)

    def layers(self, names: Sequence[str]) -> Outputs:
        """A function from uint8 views to the outputs of the layers named, compiled once."""
        inspection = import_framework(self.framework, "inspection")
        run = inspection.layer_function(self.weights.spec, self.weights.arrays, names)
        return lambda views: run(normalized(views, self.weights.preprocess.normalize))

    def batches(self, source: Source, indices: np.ndarray) -> Iterator[Batch]:
        """Examples as the network sees them at evaluation; unreadable ones are left out."""
        preprocess, channels = self.weights.preprocess, self.weights.spec.channels
        loading = Loading(BATCH, channels, on_bad_image="skip")
        batches = eval_batches(
            Subset(source, indices),
            preprocess.protocol,
            loading,
            BadImages(),
            num_classes=self.weights.spec.num_classes,
            channel_order=preprocess.normalize.channel_order,
        )
        try:
            for batch in batches:
                yield {**batch, "example": indices[batch["example"]].astype(np.int32)}
        finally:
            batches.close()

    def views(self, source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Views, uint8 [N, S, S, C], and numbers, of the examples that can be read.

        Raises:
            RunError: where none can be read.
        """
        found, order = [], []
        for batch in self.batches(source, np.unique(indices)):
            rows = batch["mask"] > 0
            found.append(batch["image"][rows])
            order.append(batch["example"][rows])
        if not sum(map(len, order)):
            raise RunError("none of these pictures can be read")
        return np.concatenate(found), np.concatenate(order)


def start(weights: Weights, framework: str) -> Network:
    """Put weights on a framework's devices.

    Raises:
        UserError: where the framework isn't installed.
    """
    engine = load_engine(framework)(
        weights.spec, weights.arrays, preprocess=weights.preprocess, batch_size=BATCH
    )
    return Network(weights, framework, engine)


def _padded(views: np.ndarray) -> Batch:
    image = np.zeros((BATCH, *views.shape[1:]), np.uint8)
    image[: len(views)] = views
    mask = (np.arange(BATCH) < len(views)).astype(np.float32)
    numbers = np.arange(BATCH, dtype=np.int32)
    return {"image": image, "label": np.zeros(BATCH, np.int32), "mask": mask, "example": numbers}


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` numbers below `count`, evenly spaced, to cover data sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def after_relu(spec: Spec, name: str) -> str:
    """The name of the ReLU right after a layer; the layer's own name if there is none."""
    rows = trace(spec)
    place = next(place for place, row in enumerate(rows) if row.name == name)
    following = rows[place + 1].name if place + 1 < len(rows) else ""
    return following if following.startswith("relu") else name


def convolutions(spec: Spec) -> list[str]:
    """The names of all convolutions."""
    return [layer.name for layer in spec if isinstance(layer, Conv)]


def last_hidden(spec: Spec) -> str | None:
    """The name of the last dense layer before the one for the classes: fc7."""
    dense = [layer.name for layer in spec if isinstance(layer, Dense)]
    return dense[-2] if len(dense) > 1 else None
