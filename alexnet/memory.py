"""Freed memory kept by the process: a training step that gives its own back pays for it again."""

import ctypes

# Of glibc's malloc.h. An int is all that mallopt takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MOST = 2**31 - 1


def keep_freed() -> bool:
    """Have the C library keep memory that is freed, for the next step; False where it can't.

    glibc gives large blocks back to the system at once, and every page of the next step's
    gradients and activations is then a page fault: with torch a third of the default job's time
    (docs/performance.md). All threads share one arena, since others grow by no more than 64 MB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 64 << 20, _ARENA_MAX: 1}
    return all(mallopt(option, value) == 1 for option, value in options.items())
