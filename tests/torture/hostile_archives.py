"""Archives and containers made to harm: zip, tar, safetensors, msgpack, .mat, HDF5, .npy."""

import io
import json
import os
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from alexnet.weights import canonical
from alexnet.weights.safetensors import header_size
from tests.torture.odd import odd_value, replaced_inside
from tests.weights import test_matconvnet as mat
from tests.weights.helpers import narrow, written
from tests.weights.test_torch_files import saved, state, tarred

Made = tuple[Path, str]
NAMES = ("../../ran", "/tmp/alexnet-torture-ran", "..\\ran", "archive/../../../ran", "archive/", "",
         "C:\\ran", "archive/data/0/", "archive/\0x", "a" * 60_000, "\x1b[2Jx")  # fmt: skip


def _size(random: np.random.Generator, low: float, high: float) -> int:
    """A size of any magnitude between two powers of ten."""
    return int(10 ** random.uniform(low, high))


def zip_(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Names that lead out, links, bombs, lying sizes, doubled and overlapping entries."""
    with zipfile.ZipFile(io.BytesIO(saved(state(narrow("torchvision"))))) as sound:
        entries = {name: sound.read(name) for name in sound.namelist()}
    path = folder / "a.pth"
    compression = int(random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries.items():
            if random.random() < 0.9:
                archive.writestr(name, content)
        for _ in range(random.integers(3)):
            info = zipfile.ZipInfo(random.choice([*NAMES, *entries]) or "x")
            info.external_attr = int(random.choice([0o120777, 0o010644, 0o020666])) << 16
            content = [str(canary).encode(), bytes(_size(random, 1, 7)), b""][random.integers(3)]
            archive.writestr(info, content)
        if random.random() < 0.1:
            for number in range(_size(random, 1, 4)):
                archive.writestr(f"archive/data/{number}x", b"")
    data = bytearray(path.read_bytes())
    directory = struct.unpack_from("<I", data, data.rfind(b"PK\5\6") + 16)[0]
    for _ in range(random.integers(4)):  # sizes, offsets and flags of the directory
        at = int(random.integers(directory, len(data) - 8))
        struct.pack_into("<I", data, at, int(random.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF])))
    path.write_bytes(data)
    return path, "torch"


def tar(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Members that are links or devices, that lie outside, or whose sizes lie."""
    path, kinds = folder / "a.pth", (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x")
    with tarfile.open(fileobj=io.BytesIO(tarred(state(narrow("torchvision"))))) as sound:
        members = [(one.name, sound.extractfile(one).read()) for one in sound.getmembers()]
    with tarfile.open(path, "w", format=int(random.integers(3))) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name if random.random() < 0.8 else random.choice(NAMES[:4]))
            info.size = len(content)
            if random.random() < 0.4:
                info.type = kinds[random.integers(len(kinds))]
                info.linkname = str(random.choice([str(canary), "../ran", "/etc/passwd", name]))
                info.size = 0 if info.type != b"0" else info.size
            archive.addfile(info, io.BytesIO(content))
    data = bytearray(path.read_bytes())
    if random.random() < 0.5:  # a size in octal, or in base 256, with a checksum that is right
        at = 512 * int(random.integers(len(data) // 512))
        value = random.choice([b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1\0" * 4])
        data[at + 124 : at + 136] = value
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 512]) & 0o777777)
    path.write_bytes(data)
    return path, "torch"


def safetensors(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Headers that are deep, long, lying, doubled or of other types."""
    entry: dict = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    depth = _size(random, 1, 5.5)
    names = [f"conv1.{part}" for part in ("kernel", "bias")]
    odd = [
        b'{"a":' * depth, b'{"a":' + b"[" * depth + b"]" * depth + b"}", b"[" * depth,
        json.dumps(dict.fromkeys(map(str, range(_size(random, 1, 5))), entry)).encode(),
        json.dumps({names[0]: entry, names[1]: entry}).encode(),
        b'{"a":%b,"a":%b}' % ((json.dumps(entry).encode(),) * 2),
        json.dumps({"__metadata__": {"format": odd_value(random)}, "a": entry}).encode(),
        json.dumps({"a": replaced_inside(random, entry)}).encode(),
        json.dumps({"\ud800": entry}).encode(), b" " * depth, b"{}", b"",
    ]  # fmt: skip
    header = odd[random.integers(len(odd))]
    length = len(header) if random.random() < 0.7 else int(2 ** random.uniform(0, 63.9))
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + bytes(8))
    return path, str(random.choice(["safetensors", "torch-safetensors"]))


def sealed(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """This project's own file with other values in its description, its digests right."""
    data = bytes(written(narrow("torchvision"), "safetensors"))
    end = header_size(data)
    header = json.loads(data[8:end])
    metadata = header["__metadata__"]
    names = [name for name in metadata if name != "digest"]
    for name in random.choice(names, int(random.integers(1, 3)), replace=False):
        if name in canonical._JSON_FIELDS and random.random() < 0.8:
            metadata[name] = json.dumps(replaced_inside(random, json.loads(metadata[name])))
        else:
            raw = odd_value(random)
            metadata[name] = raw if isinstance(raw, str) else json.dumps(raw)
    metadata.pop("digest")
    metadata["digest"] = canonical._digest(metadata)
    text = json.dumps(header).encode()
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])
    return path, "safetensors"


def msgpack(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Empty maps by the million, deep nesting, extensions of any type, lengths that lie."""
    count, head = _size(random, 1, 6.3), b"\x81\xa6params"
    four = struct.pack(">I", count)
    body = [
        b"\xdd" + four + b"\x80" * count, b"\x91" * count, b"\x81\xa1a" * count,
        b"\xdf" + four, b"\xc6" + four, b"\xdb" + four, b"\xc9" + four + random.bytes(20),
        b"\xdf" + four + b"".join(b"\xa4%04d\x80" % n for n in range(min(count, 9999))),
        b"\x81\xa5conv1\x81\xa6kernel\xc7" + random.bytes(int(random.integers(1, 60))),
        b"\xd6\xff" + random.bytes(4), b"\xc7\x0c\xff" + b"\xff" * 12,
        random.bytes(int(random.integers(1, 300))), b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf0" * 2,
    ]  # fmt: skip
    path = folder / "a.msgpack"
    path.write_bytes(head + body[random.integers(len(body))])
    return path, "flax"


def mat_(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Matrices that are nearly right, deep cells, and bombs."""
    inside = mat.EMPTY
    for _ in range(_size(random, 0, 3)):
        inside = mat._matrix(1, (1, 1), inside)
    count = _size(random, 0, 5)
    made = [
        lambda: mat._made_up(random), lambda: inside,
        lambda: mat._matrix(6, (1, _size(random, 3, 9)), mat._element(2, bytes(count))),
        lambda: mat._matrix(1, (1, count), mat.EMPTY * count),
        lambda: mat._struct(b"x" * count, 8, _size(random, 0, 9)),
        lambda: mat._element(14, random.bytes(min(count, 500))),
        lambda: mat._matrix(6, (1, 20_000_000), mat._element(2, bytes(20_000_000))),
    ]  # fmt: skip
    variable = made[random.integers(len(made))]()
    if random.random() < 0.6:
        packed = zlib.compress(variable, 9)
        variable = struct.pack("<2I", 15, len(packed)) + packed
    path = folder / "a.mat"
    path.write_bytes(mat._mat(*[variable] * int(random.integers(1, 4))))
    return path, "matconvnet"


def hdf5(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """HDF5, which no reader here takes."""
    path = folder / random.choice(["a.h5", "a.mat", "a.pth"])
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + random.bytes(int(random.integers(2000))))
    return path, str(random.choice(["matconvnet", "npy", "torch", "safetensors"]))


def npy(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Headers of .npy: code in place of a table, objects, shapes and lengths that lie."""
    depth = _size(random, 1, 5)
    descr = random.choice(["<f4", "|O", "<U999999999", "V0", "<f4,|O", "[('a','|O')]", "x" * 99])
    headers = [
        f"__import__('os').system('touch {canary}')",
        f"{{'descr': open('{canary}', 'w'), 'fortran_order': False, 'shape': ()}}",
        f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({2 ** random.integers(63)},)}}",
        f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({'9' * 5000},)}}",
        f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {'(' * depth}{')' * depth}}}",
        f"{'-' * depth}1", f"{'[' * depth}", f"{'9' * depth}", f"{{'a': {'9**' * 20}9}}", "\0",
    ]  # fmt: skip
    header = headers[random.integers(len(headers))].encode() + b"\n"
    version = int(random.choice([1, 2, 3, 9]))
    length = len(header) if random.random() < 0.8 else int(2 ** random.uniform(0, 32)) - 1
    packed = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", length)
    path = folder / "a.npy"
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + packed + header + random.bytes(40))
    return path, "npy"


def no_file(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """No regular file: a FIFO, a device, a folder, a link to one of these or in a circle."""
    path = folder / random.choice(["a.pth", "a.onnx", "a.safetensors", "a.npy", "a.mat"])
    make = [
        lambda: os.mkfifo(path), path.mkdir, lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("/dev/stdin"),
        lambda: path.symlink_to("nothing"), lambda: path.symlink_to("/proc/self/mem"),
        lambda: path.symlink_to("/dev/full"), lambda: path.write_bytes(b""),
        lambda: path.symlink_to("/proc/self/environ"), lambda: None,
    ]  # fmt: skip
    make[random.integers(len(make))]()
    return path, str(random.choice(["torch", "onnx", "safetensors", "npy", "matconvnet"]))
