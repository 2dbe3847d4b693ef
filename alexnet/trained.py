"""Weights from wherever trained networks are: a run, a file, a Hugging Face folder, the hub."""

from pathlib import PurePath

from alexnet import hub, porting, weights
from alexnet.weights import Weights


def open_weights(
    source: str | PurePath,
    *,
    step: int | None = None,
    format: str | None = None,
    variant: str | None = None,
    image_size: int | None = None,
) -> Weights:
    """The weights in a Hugging Face folder, at hf://ORG/NAME@REVISION, of a run or in a file.

    Args:
        source: where they are.
        step: of a run's checkpoint; the last by default.
        format: of a file; told from its content by default.
        variant: the network, for sources that leave it open.
        image_size: height and width of the input, likewise.

    Raises:
        UserError, RunError: where they can't be read.
    """
    path = hub.local(source)
    if hub.is_folder(path):
        return hub.read_folder(path, variant=variant, image_size=image_size)
    if porting.is_run(path):
        return porting.run_weights(porting.read_run(path, step), path)
    return weights.load(path, format, variant=variant, image_size=image_size)
