"""The Toronto .npy: a pickle, read by a reader that runs nothing."""

import struct
import time
import tracemalloc

import numpy as np
import pytest

from alexnet.errors import UserError
from alexnet.weights import detect, load

from . import makers
from .helpers import load_data, narrow, same
from .test_onnx import view


@pytest.mark.parametrize("protocol", [None, 2, 3, 4])
@pytest.mark.parametrize("form", [list, dict])
def test_npy(protocol, form, tmp_path):
    weights = narrow("caffe")
    path = tmp_path / "bvlc_alexnet.npy"
    path.write_bytes(makers.npy(weights, protocol, form))
    assert detect(path) == "npy"
    same(weights, load(path))


def test_npy_of_python_2():
    """Byte strings come as old string opcodes there, and NumPy's module had its old name."""
    weights = narrow("caffe")
    data = makers.npy(weights, 2)
    assert b"_codecs" in data  # what Python 3 does; Python 2 wrote the bytes as they are
    old = data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    same(weights, load_data(view(old), "npy", "w"))
    same(weights, load_data(view(makers.npy_of_python_2(weights)), "npy", "w"))


def test_npy_for_caffenet_on_request():
    weights = narrow("caffenet")
    with pytest.raises(UserError, match="named as in variant caffe, not 'caffenet'"):
        load_data(view(makers.npy(weights)), "npy", "w", variant="caffenet")


def test_npy_that_would_run_code(tmp_path):
    import os
    import pickle

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    header = makers.npy(narrow("caffe"))
    header = header[: header.index(b"\n") + 1]
    for protocol in (2, 3, 4):
        data = header + pickle.dumps({"conv1": Runs()}, protocol)
        with pytest.raises(UserError, match="could run code"):
            load_data(view(data), "npy", "w")
    assert not (tmp_path / "ran").exists()


def _pickled(*operations: bytes) -> memoryview:
    head = makers.npy(narrow("caffe"))
    return view(head[: head.index(b"\n") + 1] + b"\x80\x02" + b"".join(operations))


def _text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


NEST = b")q\x00" + b"h\x00\x86q\x00" * 60  # t = (t, t), 60 times
LESS = b")q\x00" + b"h\x00\x86q\x00" * 30  # a billion parts still
DTYPE = b"cnumpy\ndtype\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"
HOSTILE = {
    "type of a nest": (DTYPE + NEST + b"\x85R.", "more than 32 deep"),
    "type of a smaller nest": (DTYPE + LESS + b"\x85R.", "not a string"),
    "order of a nest": (DTYPE + b"U\x02f4\x85R(K\x03" + LESS + b"tb.", "not a string"),
    "shape of a nest": (
        ARRAY + b"(K\x01" + LESS + DTYPE + b"U\x02f4\x85RK\x00" + b"U\x04abcdtb.", "its size"),
    "content of a nest": (
        ARRAY + b"(K\x01)" + DTYPE + b"U\x02f4\x85RK\x00" + LESS + b"tb.", "invalid array"),
    "state of encode": (b"c_codecs\nencode\n}U\x01aNsb.", "takes none"),
    "state of bytes": (
        b"c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R}U\x01aNsb.", "corrupt pickle"),
    "persistent id": (b"NQ.", "corrupt pickle"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(case):
    start = time.process_time()
    with pytest.raises(UserError, match=HOSTILE[case][1]):
        load_data(_pickled(HOSTILE[case][0]), "npy", "w")
    assert time.process_time() - start < 0.5


ENCODE = b"c_codecs\nencode\n"  # how Python 3 writes bytes in protocol 2


@pytest.mark.parametrize("bad", [b"\xc4\x80", b"\xff", b"\xed\xa0\x80", b"\xc3"])
@pytest.mark.parametrize("length", [10, 100_000])
def test_npy_with_bytes_that_no_byte_stands_for(bad, length):
    """A character past the 256th, no UTF-8, half a pair, half a character; texts long and short."""
    text = b"a" * length + bad
    data = _pickled(ENCODE, _text(text), _text(b"latin1"), b"\x86R.")
    with pytest.raises(UserError, match="corrupt pickle"):
        load_data(data, "npy", "w")
    good = _pickled(ENCODE, _text(b"a" * length), _text(b"latin1"), b"\x86R.")
    with pytest.raises(UserError, match="without a dict of layers"):
        load_data(good, "npy", "w")


def test_npy_that_asks_for_the_same_bytes_again_and_again(tmp_path):
    again = b"h\x00h\x01h\x02\x86R" * 1000
    text = _text("\xe9".encode() * 500_000)
    data = _pickled(
        b"(", ENCODE, b"q\x00", text, b"q\x01", _text(b"latin1"), b"q\x02", again, b"t."
    )
    (tmp_path / "a.npy").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match="more bytes than its file has"):
        load(tmp_path / "a.npy", "npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{peak / len(data):.3f} times the file of {len(data) / 1e6:.1f} MB at the peak")
    # Python's decoder alone takes three times a text for a moment.
    assert peak < 3 * len(data) + 50_000


def test_npy_of_a_plain_array(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match="plain array"):
        load(tmp_path / "a.npy")
