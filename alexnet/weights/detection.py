"""The format of a weights file, detected from its content."""

import re
from pathlib import Path
from typing import BinaryIO

from alexnet.errors import UserError

# The first bytes of a file.
_MAGIC = {
    b"PK\3\4": "torch",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19": "torch",  # before torch 1.6
    b"\x93NUMPY": "npy",
    b"MATLAB": "matconvnet",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TAR_MEMBERS = (b"storages", b"tensors", b"pickle")  # of torch's files of 2016
_MARKER = re.compile(rb'"format"\s*:\s*"alexnet-weights"')  # in the metadata of `canonical`


def format_of(file: BinaryIO, path: str | Path) -> str | None:
    """Detect the format of a seekable file at its start, and rewind it; None if unknown.

    Only the first bytes are read; for safetensors, the header; for protobuf, where its fields
    begin. Error messages call the file `path`.

    Raises:
        UserError: for a file that is empty, or of a format that is known but not read.
    """
    head = file.read(512)
    if not head:
        raise UserError(f"{path} is empty")
    if head.startswith(_HDF5):
        raise UserError(
            f"{path} is an HDF5 file (Keras, or MATLAB's -v7.3), which is not read: save it "
            "from MATLAB with -v7, or from Keras as .npy"
        )
    format = _by_head(head) or _by_header(head, file) or _by_fields(file)
    file.seek(0)
    return format


def _by_head(head: bytes) -> str | None:
    """The format of a file with a magic number, or a name, at its start."""
    if len(head) == 512 and head.partition(b"\0")[0].removeprefix(b"./") in _TAR_MEMBERS:
        return "torch"
    if head[0] & 0xF0 == 0x80 and head[2:7] in (b"param", b"conv1"):  # a msgpack map's first key
        return "flax"
    return next((format for magic, format in _MAGIC.items() if head.startswith(magic)), None)


def _by_header(head: bytes, file: BinaryIO) -> str | None:
    """One of the two kinds of safetensors, by the metadata."""
    from alexnet.weights.safetensors import header_size

    file.seek(0)
    size = header_size(head)
    if not size:
        return None
    return "safetensors" if _MARKER.search(file.read(size)) else "torch-safetensors"


def _by_fields(file: BinaryIO) -> str | None:
    """ONNX or Caffe by the first fields of a protobuf message; their contents are not read."""
    from alexnet.weights.wire import BYTES, VARINT, outline

    fields = set(outline(file))
    if {(1, VARINT), (7, BYTES)} <= fields:  # ModelProto: ir_version and graph
        return "onnx"
    return "caffe" if {(2, BYTES), (100, BYTES)} & fields else None  # NetParameter: layers
