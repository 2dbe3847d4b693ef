"""The peak rate at which a framework multiplies large square matrices, the basis for shares."""

import time
from collections.abc import Callable

_SIZES = (256, 512, 1024, 2048, 4096, 8192)
_REPEATS = 3


def peak_rate(
    matrix_product: Callable[[int, str], Callable[[int], None]], precision: str, budget: float
) -> float:
    """Floating-point operations per second at the fastest matrix size.

    Args:
        matrix_product: from a framework's `bench` module.
        precision: fp32 or bf16.
        budget: seconds for each size; no larger size is tried once a product takes over a quarter
            of it.
    """
    best = 0.0
    for size in _SIZES:
        run = matrix_product(size, precision)
        run(1)  # compiles
        once = _seconds(run, 1)
        count = max(1, round(budget / _REPEATS / once))
        fastest = min(_seconds(run, count) for _ in range(_REPEATS)) / count
        best = max(best, 2 * size**3 / fastest)
        if 4 * fastest > budget:
            break
    return best


def _seconds(run: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start
