"""Importing a library without the optional ones that it would bring along."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
