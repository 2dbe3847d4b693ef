"""Freed memory kept by the process: a training step that gives its own back pays for it again."""

import ctypes

# Of glibc's malloc.h. An int is all that mallopt takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1


def keep_freed() -> bool:
    """Have the C library keep memory that is freed, for the next step; False where it can't.

    glibc gives large blocks back to the system at once, and every page of the next step's
    gradients and activations is then a page fault (docs/performance.md). JAX gains nothing: it
    allocates in threads, whose arenas are too small for this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 64 << 20}
    return all(mallopt(option, value) == 1 for option, value in options.items())
