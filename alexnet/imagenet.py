"""The 1000 classes of ILSVRC 2012, in the order of their labels.

Labels follow the sorted WNIDs, WordNet 3.0's identifiers. The names are torchvision's
(`_IMAGENET_CATEGORIES` of 0.24): one of the words of each WordNet entry, as timm 1.0.22 lists them
for these WNIDs. The exceptions are "crane bird" and "maillot tank suit", which other lists call
crane and maillot, as they do another class each. WNIDs distinguish such classes.
"""

import functools
from importlib.resources import files


@functools.cache
def classes() -> tuple[tuple[str, str], ...]:
    """WNID and name of each class."""
    lines = files("alexnet").joinpath("imagenet_classes.tsv").read_text().splitlines()
    pairs = (line.split("\t") for line in lines)
    return tuple((wnid, name) for wnid, name in pairs)
