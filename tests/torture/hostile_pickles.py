"""Pickles made to harm, in every container that holds one: a zip, a row, a tar, a .npy."""

import io
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.weights import makers
from tests.weights.helpers import narrow
from tests.weights.test_torch_files import state, tarred, text

OPCODES = [code.code.encode("latin-1") for code in pickletools.opcodes]
CODE = (
    "os system", "posix system", "builtins eval", "builtins exec", "__builtin__ eval",
    "subprocess Popen", "subprocess check_output", "runpy run_path", "importlib import_module",
    "shutil rmtree", "alexnet.files remove_tree", "torch load", "torch.hub load", "numpy load",
    "pathlib Path", "functools partial", "operator attrgetter", "builtins getattr",
    "torch._utils os.system", "collections OrderedDict.__reduce__", "torch Size.__class__",
    "torch._utils _rebuild_tensor_v2.__globals__", "numpy.core.multiarray __builtins__",
)  # fmt: skip
KNOWN = (
    "torch Size", "collections OrderedDict", "torch FloatStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "numpy dtype", "numpy ndarray",
    "numpy.core.multiarray _reconstruct", "_codecs encode",
)  # fmt: skip


def _global(name: str, random: np.random.Generator) -> bytes:
    """A name by GLOBAL, STACK_GLOBAL or INST, which calls it as well."""
    module, _, attribute = name.partition(" ")
    match random.integers(3):
        case 0:
            return f"c{module}\n{attribute}\n".encode()
        case 1:
            return text(module) + text(attribute) + b"\x93"
    return f"(i{module}\n{attribute}\n".encode()


def runs_code(random: np.random.Generator, canary: Path) -> bytes:
    """A call that would make the canary file, by one of the ways to call."""
    name = random.choice(CODE)
    touch = f"touch {canary}" if "system" in name else f"open({str(canary)!r}, 'w').write('x')"
    arguments = text(touch) + b"\x85"
    call = [
        _global(name, random) + arguments + b"R",
        b"(" + text(touch) + f"i{name.replace(' ', chr(10))}\n".encode(),
        b"(" + _global(name, random) + text(touch) + b"o",
        _global(name, random) + arguments + b"\x81",
        _global(name, random) + arguments + b"}\x92",
        _global(name, random) + b")R}" + text("a") + text(touch) + b"sb",
        b"\x82\x01" + arguments + b"R",
    ][random.integers(7)]
    return [call, b"}" + text("a") + call + b"s", b"(" + call + b"l", call + b"Q"][
        random.integers(4)
    ]


def made_by_python(random: np.random.Generator, canary: Path) -> bytes:
    """What `pickle.dumps` makes of an object with a `__reduce__` that runs a command."""

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    value = [Runs(), {"state_dict": Runs()}, [(Runs(),)], {"a": {"b": [Runs()] * 3}}]
    data = pickle.dumps(value[random.integers(4)], int(random.integers(6)))
    return data.removesuffix(b".")


def deep(random: np.random.Generator, canary: Path) -> bytes:
    """A value in a value in a value, tens or thousands of times."""
    depth = int(10 ** random.uniform(1.3, 5.3))
    step = [b"\x85", b"\x94\x85", b"a", b"s"][random.integers(4)]
    body = {b"a": b"]" * depth + b"a" * (depth - 1), b"s": (b"}N" * depth) + b"s" * (depth - 1)}
    inside = body.get(step, b"N" + step * depth)
    return _placed(inside, random)


def nest(random: np.random.Generator, canary: Path) -> bytes:
    """t = (t, t), so many times that no computer could count its parts."""
    times = int(random.integers(15, 2000))
    doubled = [b"h\x00\x86q\x00", b"h\x00h\x00\x86q\x00", b"2\x86q\x00"][random.integers(3)]
    return _placed(b")q\x00" + doubled * times, random)


def _placed(value: bytes, random: np.random.Generator) -> bytes:
    """A value where a reader would look at it: key, id, size, table, type, state."""
    called = _global(random.choice(KNOWN), random)
    return [
        b"}" + value + b"Ns", b"}" + text("a") + value + b"s", value + b"Q", b"(" + value + b"tQ",
        called + value + b"\x85R", called + value + b"R", called + b")R" + value + b"b",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + value + b"K\x01NtQ",
    ][random.integers(8)]  # fmt: skip


def again(random: np.random.Generator, canary: Path) -> bytes:
    """The same long list made into something again and again."""
    items = b"".join(text(f"{n:05}") + b"N\x86" for n in range(int(random.integers(10, 20_000))))
    name = random.choice(KNOWN)
    call = f"c{name.replace(' ', chr(10))}\n".encode()
    times = int(10 ** random.uniform(1, 4))
    return b"(" + call + b"q\x00](" + items + b"eq\x01" + b"h\x00h\x01\x85R" * times + b"t"


def any_opcodes(random: np.random.Generator, canary: Path) -> bytes:
    """Opcodes in no order, with arguments that may be any."""
    parts = [b"(N]}"]
    for _ in range(random.integers(1, 200)):
        parts.append(OPCODES[random.integers(len(OPCODES))])
        if random.random() < 0.5:
            lengths = struct.pack("<I", int(2 ** random.uniform(0, 32)) - 1)
            parts.append([random.bytes(int(random.integers(1, 9))), lengths, b"1\n", b"a b\n"][
                random.integers(4)])  # fmt: skip
    return b"".join(parts)


def long(random: np.random.Generator, canary: Path) -> bytes:
    """Lengths past the end, texts and numbers of a megabyte, memos at any index."""
    size = int(2 ** random.uniform(10, 63))
    eight, four = struct.pack("<Q", size), struct.pack("<I", size & 0xFFFFFFFF)
    return [
        b"X" + four, b"B" + four, b"\x8d" + eight, b"\x8e" + eight, b"\x96" + eight,
        b"\x95" + eight, b"\x8b" + struct.pack("<i", size & 0x7FFFFFFF), b"T" + four,
        b"Nr" + four, b"I" + b"9" * int(random.integers(10, 200_000)) + b"\n",
        b"L" + b"9" * int(random.integers(10, 200_000)) + b"L\n", b"N" * (size & 0xFFFFF),
        b"V" + b"\\u0041" * 100_000 + b"\n", b"F" + b"1" * 100_000 + b"\n",
    ][random.integers(14)]  # fmt: skip


def lying_tensor(random: np.random.Generator, canary: Path) -> bytes:
    """A tensor whose size, strides, offset or storage are anything."""
    odd = [0, 1, -1, 2**31 - 1, 2**40, 2**62, 2**63, 2**64, -(2**63), 10**30]

    def number() -> bytes:
        value = odd[random.integers(len(odd))]
        return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)

    def numbers() -> bytes:
        return b"(" + b"".join(number() for _ in range(random.integers(0, 70))) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n"
    storage += text(random.choice(["0", "../0", "/etc/passwd", "", "0\0", "x" * 1000]))
    storage += text("cpu") + number() + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number() + numbers() + numbers()
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"}" + text("features.0.weight") + tensor + b"s"


BODIES = (runs_code, runs_code, made_by_python, deep, nest, again, any_opcodes, long, lying_tensor)


def _zip(body: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(64))
    return file.getvalue()


def _row(body: bytes) -> bytes:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join(head) + body + pickle.dumps(["0"], 2) + struct.pack("<Q", 1) + bytes(4)


def _npy(body: bytes) -> bytes:
    whole = makers.npy(narrow("caffe"))
    return whole[: whole.index(b"\n") + 1] + body


def _tar(body: bytes) -> bytes:
    return bytes(tarred(state(narrow("torchvision")), body))


CONTAINERS = {"torch": (_zip, _row, _tar), "npy": (_npy,)}


def pickled(random: np.random.Generator, folder: Path, canary: Path) -> tuple[Path, str]:
    """A file with a pickle made to harm, and its format."""
    body = BODIES[random.integers(len(BODIES))](random, canary)
    protocol = b"" if body.startswith(b"\x80") else b"\x80" + bytes([random.integers(6)])
    format = "npy" if random.random() < 0.25 else "torch"
    containers = CONTAINERS[format]
    path = folder / f"a.{'npy' if format == 'npy' else 'pth'}"
    path.write_bytes(containers[random.integers(len(containers))](protocol + body + b"."))
    return path, format
