"""Formats told from a file's first bytes."""

import io

import numpy as np
import pytest

from alexnet.errors import UserError
from alexnet.weights.formats import FORMATS, WRITABLE, detect_file
from alexnet.weights.safetensors import header_size

from . import makers
from .helpers import narrow, written


class Counted(io.BytesIO):
    """A file that counts the bytes read from it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


READ_ONLY = {
    "caffe": lambda: makers.caffemodel(narrow("caffe"), 1),
    "npy": lambda: makers.npy(narrow("caffe")),
    "matconvnet": lambda: makers.matconvnet(narrow("caffe")),
}


@pytest.mark.parametrize("format", FORMATS)
def test_few_bytes_are_enough(format):
    data = written(narrow("torchvision"), format) if format in WRITABLE else READ_ONLY[format]()
    for whole in (data, data[: len(data) // 2]):  # one that is cut short, too, tells what it was
        file = Counted(whole)
        told = detect_file(file, "w")
        assert told == format.replace("torchvision", "torch")
        assert file.tell() == 0
        assert file.count <= 2000 + header_size(data)


def test_caffe_of_version_2():
    assert detect_file(io.BytesIO(makers.caffemodel(narrow("caffe"), 2)), "w") == "caffe"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x00" * 1000, "none of the formats"),
        (b"\x08\x07" * 1000, "none of the formats"),  # a protobuf message without a graph
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "none of the formats"),
        (b"\x12", "none of the formats"),
        (b"storages", "none of the formats"),
        (b"\xff" * 7, "none of the formats"),
        (np.random.default_rng(0).bytes(1000), "none of the formats"),
    ],
)
def test_no_format(data, message):
    with pytest.raises(UserError, match=message):
        detect_file(io.BytesIO(data), "w")
