"""Importing a library without the frameworks that it would bring along."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make optional imports of these modules inside the block fail as if they weren't installed.

    grain imports jax, and tensorboardX torch, wherever they are installed, which would cost the
    other framework's process seconds and memory. A module that is imported already stays.
    Warnings about the absence are kept quiet: it is meant.
    """
    absent = [name for name in names if sys.modules.get(name) is None]
    sys.modules.update(dict.fromkeys(absent))
    threshold = logging.root.manager.disable
    logging.disable(max(threshold, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(threshold)
        for name in absent:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
