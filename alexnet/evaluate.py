"""Evaluation of a network on a data set: each example counted exactly once."""

import time
from collections.abc import Callable, Iterable

from alexnet.data.pipeline import BadImages
from alexnet.engine import Batch, Engine
from alexnet.errors import RunError
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
) -> dict[str, float] | None:
    """Means of `loss`, `top1` and `top5`, `count`, and `examples_per_second`; None if stopped.

    Args:
        engine: the network.
        batches: of the whole set, this process's rows, as `pipeline.eval_batches` gives them.
        examples: how many there are, over all processes.
        bad_images: those that `batches` left out because they could not be read.
        processes: that evaluate together.
        stop: asked before every batch; where it says so, the evaluation is given up.
        on_progress: told how many examples are done.

    Raises:
        RunError: if the number of examples counted is not the number there are.
    """
    start, processes = time.perf_counter(), processes or Processes()
    sums = dict.fromkeys(("loss", "top1", "top5", "count"), 0.0)
    for batch in batches:
        if stop():
            return None
        for name, value in engine.fetch(engine.eval_step(batch)).items():
            sums[name] += value
        on_progress(int(sums["count"]))
    left_out = int(processes.gather([len(bad_images or ())]).sum())
    count = int(sums.pop("count"))
    if count + left_out != examples or count == 0:
        raise RunError(
            f"the evaluation counted {count} examples and left out {left_out}, but there are "
            f"{examples}"
        )
    means = {name: total / count for name, total in sums.items()}
    rate = count / (time.perf_counter() - start)
    return {**means, "count": count, "examples_per_second": rate}
