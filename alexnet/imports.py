"""Imports without side effects: no optional libraries, and no files from the current folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# `python -m` would look for modules in the current folder first, so a queue.py there could run.
_RUN = (
    "import runpy, sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command_of(module: str) -> list[str]:
    """A command that runs one of this package's modules, whatever is in the current folder."""
    return [sys.executable, "-P", "-c", _RUN, str(Path(__file__).parents[1]), module]


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make imports of these modules inside the block fail as if they weren't installed.

    tensorboardX imports torch if it is installed, which would cost a JAX run seconds and memory
    for nothing that is used here. Modules already imported stay available.
    """
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
