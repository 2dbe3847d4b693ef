"""Damaged files for every reader: each is refused in one line, or read as weights.

`python -m tests.torture --only mutations` tries as many as there is time for.
"""

import io
import resource
import time

import numpy as np
import pytest

from alexnet.errors import UserError
from alexnet.weights import check
from alexnet.weights.formats import detect_file

from .helpers import load_data, narrow, same, written
from .mutants import SUBJECTS, mutate, structure_of

COUNT = 2000
SLOW = 500  # of formats whose readers take longest


@pytest.mark.parametrize("name", SUBJECTS)
def test_each_format(name):
    subject = SUBJECTS[name]()
    count = SLOW if name.startswith("onnx") or "compressed" in name else COUNT
    random = np.random.default_rng(list(SUBJECTS).index(name))
    structure = structure_of(subject.data, subject.weights)
    assert len(structure) > 30
    same(subject.weights, subject.read(subject.data))
    refused, slowest, messages = 0, 0.0, set()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        bad = mutate(random, subject.data, structure)
        start = time.process_time()
        try:
            again = subject.read(bad)
            check(again.arrays, again.spec)
        except UserError as error:
            refused += 1
            messages.add(str(error))
        slowest = max(slowest, time.process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{refused} of {count} refused, slowest in {slowest:.2f} s, memory grew {grown:.0f} MiB")
    assert all(len(message.splitlines()) == 1 and len(message) < 5000 for message in messages)
    assert grown < 150
    assert refused > count / 10
    assert slowest < 5


def test_canonical_files_never_come_back_changed():
    """With digests there is a third answer less: refused, or exactly what was written."""
    weights = narrow("torchvision", num_classes=2)
    data = bytes(written(weights, "safetensors"))
    random = np.random.default_rng(2)
    for _ in range(COUNT):
        try:
            again = load_data(mutate(random, data, np.arange(len(data))), "safetensors", "w")
        except UserError:
            continue
        same(weights, again)
        assert again.preprocess == weights.preprocess
        assert again.class_names == weights.class_names


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_format(seed):
    random = np.random.default_rng(seed)
    magics = [
        b"PK\3\4", b"\x93NUMPY\1\0", b"MATLAB 5.0", b"\x81\xa6params", b"\x80\x02\x8a\x0a",
        b"\x08\x07", b"\x0a\x07AlexNet\x12", b"storages\0", b"\x40" + bytes(7) + b"{", b"",
    ]  # fmt: skip
    for _ in range(300):
        magic = magics[random.integers(len(magics))]
        data = memoryview(bytearray(magic + random.bytes(int(random.integers(0, 700)))))
        try:
            format = detect_file(io.BytesIO(data), "w")
        except UserError:
            continue
        with pytest.raises(UserError):
            load_data(data, format, "w")
