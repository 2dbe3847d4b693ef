"""Evaluation of a network on a data set: each example counted exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from alexnet.errors import RunError

if TYPE_CHECKING:  # `import alexnet` imports this module, and must stay fast
    import numpy as np

    from alexnet.data.pipeline import BadImages
    from alexnet.engine import Batch, Engine
    from alexnet.processes import Processes


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    examples: int,
    *,
    bad_images: BadImages | None = None,
    processes: Processes | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda done: None,
    on_logits: Callable[[Batch, np.ndarray], None] | None = None,
) -> dict[str, float] | None:
    """Mean `loss`, `top1` and `top5`, `count`, and `examples_per_second`; None if stopped.

    Args:
        engine: the network.
        batches: this process's rows of the whole set, from `pipeline.eval_batches`.
        examples: total number of examples, over all processes.
        bad_images: unreadable images that `batches` left out.
        processes: the processes that evaluate together.
        stop: called before every batch; if it returns True, the evaluation is abandoned.
        on_progress: called with the number of examples done.
        on_logits: called with each batch and its logits, if they are wanted.

    Raises:
        RunError: if the number of examples counted is not the total.
    """
    start = time.perf_counter()
    sums = dict.fromkeys(("loss", "top1", "top5", "count"), 0.0)
    for batch in batches:
        if stop():
            return None
        if on_logits is None:
            found = engine.eval_step(batch)
        else:
            found, logits = engine.eval_outputs(batch)
            on_logits(batch, logits)
        for name, value in engine.fetch(found).items():
            sums[name] += value
        on_progress(int(sums["count"]))
    left_out = len(bad_images or ())
    if processes is not None:
        left_out = int(processes.gather([left_out]).sum())
    count = int(sums.pop("count"))
    if count + left_out != examples or count == 0:
        raise RunError(
            f"the evaluation counted {count} examples and left out {left_out}, but there are "
            f"{examples}"
        )
    means = {name: total / count for name, total in sums.items()}
    rate = count / (time.perf_counter() - start)
    return {**means, "count": count, "examples_per_second": rate}
