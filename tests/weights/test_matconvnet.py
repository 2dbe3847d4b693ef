"""MatConvNet's models: `.mat`."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from alexnet.errors import UserError
from alexnet.weights import detect, load, matfile

from . import makers
from .helpers import load_data, narrow, same, view, within


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_matconvnet(name, compressed, tmp_path):
    weights = narrow(name)
    path = tmp_path / "imagenet-caffe-alex.mat"
    path.write_bytes(makers.matconvnet(weights, compressed))
    assert detect(path) == "matconvnet"
    read = load(path)
    same(weights, read)
    assert read.class_names == weights.class_names
    assert not read.mean_image  # it is here
    image = scipy.io.loadmat(path)["normalization"]["averageImage"][0, 0]
    np.testing.assert_array_equal(read.preprocess.normalize.subtracted, image)
    assert read.preprocess.protocol.resize_rule == "warp"
    assert all(109 < mean < 111 for mean in read.preprocess.normalize.mean)


def test_matconvnet_with_a_mean_colour():
    read = load_data(view(makers.matconvnet(narrow("caffe"), mean="value")), "matconvnet", "w")
    assert not read.mean_image
    assert read.preprocess.normalize.mean == (123.0, 117.0, 104.0)


def test_matconvnet_with_a_softmax_inside():
    data = makers.matconvnet(narrow("caffe"), edit=lambda layers: layers[1].update(type="softmax"))
    with pytest.raises(UserError, match="it goes on after its softmax, with 'lrn3'"):
        load_data(view(data), "matconvnet", "w")


def test_matlab_73_is_refused(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match=r"7\.3 is HDF5"):
        load(tmp_path / "a.mat")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(UserError, match="HDF5"):
        load(tmp_path / "a.h5")


@pytest.mark.parametrize("zeros", [3 << 20, (3 << 20) + 12345])
def test_matlab_variables_that_compress_well(zeros):
    """The unpacked end of a variable can still be to come when all of its bytes have been read."""
    data = io.BytesIO()
    scipy.io.savemat(data, {"a": np.zeros(zeros, "u1"), "b": np.arange(5.0)}, do_compression=True)
    data.seek(0)
    variables = matfile.read(data)
    assert variables["a"].shape == (1, zeros)
    assert not variables["a"].any()
    np.testing.assert_array_equal(variables["b"], [[0, 1, 2, 3, 4]])


def test_matlab_compression_that_is_damaged():
    data = makers.matconvnet(narrow("caffe"), mean="value")
    size = struct.unpack_from("<I", data, 132)[0]
    checksum = bytearray(data)
    checksum[136 + size - 1] ^= 1
    with pytest.raises(UserError, match="can't be unpacked"):
        load_data(view(bytes(checksum)), "matconvnet", "w")
    short = data[:132] + struct.pack("<I", size - 2) + data[136 : 136 + size - 2]
    with pytest.raises(UserError, match="cut short"):
        load_data(view(short), "matconvnet", "w")
    for end in np.linspace(128, len(data) - 1, 40).astype(int):
        with pytest.raises(UserError):
            load_data(view(data[:end]), "matconvnet", "w")


def test_matlab_text_in_any_encoding():
    names = ["tench", "crème brûlée", "犬"]
    data = io.BytesIO()
    scipy.io.savemat(data, {"a": np.array(names, object)})
    assert matfile.read(io.BytesIO(data.getvalue()))["a"] == names
    wide = _element(17, "crème".encode("utf-16-le"))
    read = matfile.read(io.BytesIO(_mat(_matrix(4, (1, 5), wide))))
    assert read == {"a": "crème"}


def test_matlab_numbers_in_a_smaller_type():
    """MATLAB stores whole numbers in the smallest type that holds them, kernels of zeros too."""
    data = _mat(_matrix(7, (2, 2), _element(2, bytes([1, 2, 3, 4]))))
    array = matfile.read(io.BytesIO(data))["a"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1, 3], [2, 4]])


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def _matrix(class_: int, shape: tuple[int, ...], content: bytes, name: bytes = b"a") -> bytes:
    """A MATLAB matrix as its elements: flags, shape, name, and what is in it."""
    flags, sizes = struct.pack("<2I", class_, 0), struct.pack(f"<{len(shape)}i", *shape)
    return _element(14, _element(6, flags) + _element(5, sizes) + _element(1, name) + content)


def _mat(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(variables)


def _struct(names: bytes, length: int = 32, count: int = 1) -> bytes:
    return _matrix(2, (1, count), _element(5, struct.pack("<i", length)) + _element(1, names))


EMPTY = struct.pack("<2I", 14, 0)
DEEP = EMPTY
for _ in range(500):
    DEEP = _matrix(1, (1, 1), DEEP)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (_matrix(4, (1, 4), _element(0x90, b"pool")), "shape is not its size"),
        (_matrix(6, (0, 0), _element(10, b"")), "shape is not its size"),
        (_matrix(4, (), _element(16, b"p")), "no shape"),
        (_matrix(6, (1, -1), b""), "no shape"),
        (_matrix(6, (1,) * 9, _element(9, bytes(8))), "no shape"),
        (_matrix(6, (1 << 30, 1 << 30), _element(9, bytes(8))), "far more than its size"),
        (_matrix(4, (1, 1 << 30), _element(16, b"")), "far more than its size"),
        (_matrix(4, (1, 1000), _element(16, b"")), "shape is not its size"),
        (_matrix(1, (1 << 15, 1 << 15), EMPTY), "more than the 20000 parts"),
        (_matrix(1, (1, 100_000), EMPTY * 100_000), "more than the 20000 parts"),
        (_matrix(1, (1, 2), EMPTY), "an element is missing"),
        (_matrix(1, (1, 1), EMPTY * 2), "longer than its parts"),
        (_matrix(1, (1, 1), _element(9, bytes(8))), "a cell is no matrix"),
        (_struct(b"", count=1 << 30), "more than the 20000 parts"),
        (_struct(b"".join(b"%031d\0" % i for i in range(200))), "more than 100 fields"),
        (_struct(b"x" * 64), "no field names"),
        (_struct(b"x" * 4096, 4096), "no field names"),
        (_struct(b"", 0), "no field names"),
        (DEEP, "nested too deeply"),
        (_matrix(5, (1, 1), _element(9, bytes(8))), "values of a kind"),  # sparse
        (_matrix(6 | 8 << 8, (1, 1), _element(9, bytes(8)) * 2), "values of a kind"),  # complex
        (_matrix(7, (1, 2), _element(7, bytes(12))), "shape is not its size"),
        (
            _matrix(4, (1, 3), _element(17, "\U00010000a".encode("utf-16-le"))),
            "shape is not its size",
        ),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_hostile(variable, message, compressed):
    if compressed:
        packed = zlib.compress(variable)
        variable = struct.pack("<2I", 15, len(packed)) + packed
    data = _mat(variable)
    with pytest.raises(UserError, match=message):
        within(4, lambda: load_data(view(data), "matconvnet", "w"), len(data))


def test_matlab_with_very_many_variables():
    """Each takes SciPy a tenth of a millisecond, and 64 bytes of the file."""
    with pytest.raises(UserError, match="more than the 20000 parts"):
        matfile.read(io.BytesIO(_mat(*[_matrix(7, (1, 1), _element(7, bytes(4)))] * 101)))


def test_matlab_compression_that_ends_too_early():
    packed = zlib.compress(_matrix(7, (1, 1), _element(7, bytes(4)))) + bytes(100_000)
    with pytest.raises(UserError, match="ends too early"):
        matfile.read(io.BytesIO(_mat(struct.pack("<2I", 15, len(packed)) + packed)))


def test_matlab_bytes_that_become_doubles():
    data = _mat(_matrix(6, (1, 4_000_000), _element(2, bytes(4_000_000))))
    with pytest.raises(UserError, match="far more than its size"):
        load_data(view(data), "matconvnet", "w")


def test_matlab_sixty_megabytes_in_sixty_thousand_bytes():
    data = io.BytesIO()
    scipy.io.savemat(data, {"a": np.zeros(62_000_000, "u1")}, do_compression=True)
    with pytest.raises(UserError, match="far more than its size"):
        load_data(view(data.getvalue()), "matconvnet", "w")


def test_matlab_zip_bomb():
    bomb = zlib.compress(struct.pack("<2I", 14, 1 << 30) + bytes(30_000_000), 9)
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    data += struct.pack("<2I", 15, len(bomb)) + bomb
    with pytest.raises(UserError, match="far more than its size"):
        load_data(view(data), "matconvnet", "w")


def _made_up(random: np.random.Generator, depth: int = 0) -> bytes:
    """A matrix that is nearly right: any class, shape (zeros too), type and encoding."""
    if depth and random.random() < 0.1:
        return EMPTY
    class_ = int(random.choice([1, 2, 4, 4, 6, 7, 8, 9, 10, 11, 12, 13] if depth < 4 else [4, 7]))
    shape = tuple(map(int, random.choice([0, 1, 1, 1, 2, 3], random.integers(2, 5))))
    count = int(np.prod(shape))
    if class_ == 1:
        content = b"".join(_made_up(random, depth + 1) for _ in range(count))
    elif class_ == 2:
        names = [b"f%d" % random.integers(5) for _ in range(random.integers(4))]
        content = _element(5, struct.pack("<i", 8))
        content += _element(1, b"".join(name.ljust(8, b"\0") for name in names))
        content += b"".join(_made_up(random, depth + 1) for _ in range(count * len(names)))
    else:
        sizes = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
        kind = int(random.choice(list(sizes))) if random.random() < 0.9 else random.integers(256)
        content = _element(kind, random.bytes(count * sizes.get(kind, 1)))
    return _matrix(class_, shape, content, b"a" * random.integers(1, 4))


def test_matlab_made_up():
    """Whatever a file holds, it is read or refused in one sentence."""
    random = np.random.default_rng(0)
    read = 0
    for _ in range(2000):
        try:
            matfile.read(io.BytesIO(_mat(_made_up(random))))
            read += 1
        except UserError:
            pass
    print(f"{read} of 2000 read")
    assert 400 < read < 1900
