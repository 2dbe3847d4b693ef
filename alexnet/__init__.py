"""AlexNet for two frameworks: what both share. Imports neither jax nor torch."""

from typing import Any

# These modules bear the names of functions: imported first, so that no later import of theirs
# takes the functions' place. `from alexnet.evaluate import ...` finds the modules all the same.
import alexnet.evaluate
import alexnet.preprocess  # noqa: F401
from alexnet.api import evaluate, predict, preprocess

__all__ = ["evaluate", "predict", "preprocess"]


def __getattr__(name: str) -> Any:
    """`__version__`, looked up when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module 'alexnet' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alexnet-two-frameworks")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
