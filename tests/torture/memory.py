"""This process's own peak of memory, held against the size of what it reads."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

TIMES = 3.5  # a conversion may take so many times the file
SPARE = 64 << 20  # bytes besides, for tiny files
LIBRARIES = 320 << 20  # where TFDS or JAX may start
ONNX = 320 << 20  # the same where a graph is run, on images of its size


@contextlib.contextmanager
def bounded(size: int, spare: int = SPARE) -> Iterator[None]:
    """Raise where the block takes more memory than a file of `size` bytes may.

    Linux tells the peak, and starts anew where 5 is written to `clear_refs`.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    try:
        yield
    finally:
        grown = _status("VmHWM") - before
        assert grown < TIMES * size + spare, (
            f"{grown / 1e6:.0f} MB of memory for a file of {size / 1e6:.3f} MB"
        )


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10
