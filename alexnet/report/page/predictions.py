"""A network's predictions for some of a data set's examples."""

from collections.abc import Callable

import numpy as np

from alexnet.data.dataset import Source
from alexnet.errors import RunError
from alexnet.processes import Processes
from alexnet.report.page.network import Network
from alexnet.scores import Predictions, join, log_softmax, predictions_of


def collect(
    network: Network,
    source: Source,
    indices: np.ndarray,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Predictions for the examples at `indices`; those that can't be read are left out.

    Raises:
        RunError: where none can be read, or the outputs aren't finite.
    """
    parts: list[Predictions] = []
    for batch in network.batches(source, indices):
        parts.append(predictions_of(batch, log_softmax(network.engine.logits(batch))))
        on_progress(sum(map(len, parts)))
    whole = join(parts, Processes(), sum(map(len, parts)))
    if not len(whole):
        raise RunError("none of the data set's examples can be read")
    return whole
