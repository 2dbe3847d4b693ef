"""The protocols by which published accuracies were measured, by name: geometry and views.

Depending on the protocol, the same bvlc_alexnet weights reach 54.6 to 57.1 % top-1. Channel order,
mean and standard deviation are the weights' own under all of them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from alexnet.preprocess import EvalProtocol, Preprocess, describe_geometry

ProtocolName = Literal["center", "ten-crop", "caffe", "torchvision", "onnx-zoo"]
NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)


@dataclass(frozen=True)
class Views:
    """The views of an image whose outputs are averaged, and how they are cropped."""

    geometry: EvalProtocol
    ten_crop: bool = False

    def describe(self) -> str:
        """A description of the geometry."""
        return describe_geometry(self.geometry, "ten crops" if self.ten_crop else "the center")


def views(name: ProtocolName, preprocess: Preprocess) -> Views:
    """A protocol for a network with the given preprocessing of its own.

    center: the weights' own. ten-crop: the same, with the softmax averaged over center, corners
    and their mirror images (Krizhevsky et al. 2012, section 4.1). caffe: both sides warped to 256
    (examples/imagenet/readme.md in BVLC/caffe). torchvision: the short side to 256
    (references/classification). onnx-zoo: both sides warped to the network's own size, no margin
    (the program behind the zoo's own figure: main.py of alexnet in intel/neural-compressor).
    """
    own, size = preprocess.protocol, preprocess.protocol.crop
    margin = 256 if size in (224, 227) else round(size * 8 / 7)
    geometry = {
        "center": own,
        "ten-crop": own,
        "caffe": EvalProtocol("warp", margin, size),
        "torchvision": EvalProtocol("short", margin, size),
        "onnx-zoo": EvalProtocol("warp", size, size),
    }
    return Views(geometry[name], ten_crop=name == "ten-crop")
