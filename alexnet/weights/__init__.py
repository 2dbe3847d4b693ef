"""Weights in every format that people have them in: `load`, `save`, `detect`, `check`."""

from alexnet.weights.core import Weights, check
from alexnet.weights.formats import FORMATS, detect, load, save

__all__ = ["FORMATS", "Weights", "check", "detect", "load", "save"]
