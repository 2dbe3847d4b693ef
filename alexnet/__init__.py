"""AlexNet for two frameworks: what both share. Imports neither jax nor torch."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`__version__`, looked up when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module 'alexnet' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alexnet-two-frameworks")
    except PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
