"""Weights in every format that people have them in: `load`, `save`, `detect`, `check`."""

from alexnet.weights.core import Weights, check
from alexnet.weights.formats import DESCRIBING, FORMATS, detect, load, save

__all__ = ["DESCRIBING", "FORMATS", "Weights", "check", "detect", "load", "save"]
