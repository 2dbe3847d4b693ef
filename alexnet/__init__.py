"""AlexNet for two frameworks: the code that both share. It imports neither jax nor torch."""

from typing import Any

# These modules share their names with functions. They are imported first, so that no later import
# of a module replaces its function. `from alexnet.evaluate import ...` still finds the module.
import alexnet.evaluate
import alexnet.preprocess  # noqa: F401
from alexnet.api import evaluate, predict, preprocess

__all__ = ["evaluate", "predict", "preprocess"]


def __getattr__(name: str) -> Any:
    """Look up `__version__` on first use."""
    if name != "__version__":
        raise AttributeError(f"module 'alexnet' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alexnet-two-frameworks")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
