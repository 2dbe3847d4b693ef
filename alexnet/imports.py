"""Imports that bring nothing else along: no optional libraries, no files of the current folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# `python -m` would look for modules in the current folder first: one called queue.py could run.
_RUN = (
    "import runpy, sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command_of(module: str) -> list[str]:
    """A command that runs one of this package's modules, whatever lies in the current folder."""
    return [sys.executable, "-P", "-c", _RUN, str(Path(__file__).parents[1]), module]


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make imports of these modules inside the block fail as if they weren't installed.

    tensorboardX imports torch wherever it is installed, which would cost a JAX run seconds and
    memory, and needs it for nothing that is used here. A module that is imported already stays.
    """
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
