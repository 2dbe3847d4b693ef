"""Damaged files for every reader: refused in one sentence, or read as weights or a mean image."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from alexnet.data.mean_image import with_image
from alexnet.errors import UserError
from alexnet.preprocess import EvalProtocol, Normalize
from alexnet.weights import Weights, check
from tests.torture.cases import Case, assert_one_sentence
from tests.torture.memory import ONNX, SPARE, bounded
from tests.weights import makers
from tests.weights.mutants import SUBJECTS, Subject, mutate, structure_of

SIDE = 12  # pixels of a mean image


@cache
def _subject(name: str) -> tuple[Subject, np.ndarray]:
    subject = SUBJECTS[name]()
    return subject, structure_of(subject.data, subject.weights)


def read_bounded(read: Callable[[], Weights], size: int, spare: int) -> Weights | None:
    """Weights, or None where they are refused as they should be, in bounded memory."""
    with bounded(size, spare):
        try:
            weights = read()
            check(weights.arrays, weights.spec)
        except UserError as error:
            assert_one_sentence(str(error))
            return None
    return weights


def _read_mean_image(case: Case, kind: str) -> str:
    """Damage a file of a mean image, a cache's statistics among them, and read it."""
    random = case.random
    image = random.uniform(90, 140, (SIDE, SIDE, 3)).astype("f4")
    path = file = makers.mean_image(kind, case.folder, image)
    if path.is_dir():
        (file,) = path.iterdir()
    data = file.read_bytes()
    file.write_bytes(mutate(random, data, np.arange(len(data))))
    plain, protocol = Normalize((0.0,) * 3, (1.0,) * 3), EvalProtocol("short", SIDE, SIDE - 2)
    with bounded(file.stat().st_size, SPARE):
        try:
            found = with_image(plain, protocol, str(path))
        except UserError as error:
            assert_one_sentence(str(error))
            return "refused"
    assert found.subtracted.min() >= 0
    assert found.subtracted.max() <= 255
    return "read"


def begin(folder: Path):
    """A function that reads one damaged file."""
    names = [*SUBJECTS, *makers.MEAN_IMAGES]

    def attempt(case: Case) -> str:
        name = names[case.index // 2 % len(names)]  # two workers, all formats in both
        if name in makers.MEAN_IMAGES:
            return _read_mean_image(case, name)
        subject, structure = _subject(name)
        bad = mutate(case.random, subject.data, structure)
        try:
            spare = ONNX if subject.format == "onnx" else SPARE
            found = read_bounded(lambda: subject.read(bad), len(bad), spare)
        except Exception as error:
            error.add_note(name)
            raise
        if found is None:
            return "refused"
        if name.startswith("safetensors"):  # it has digests
            whole = subject.weights
            assert found.class_names == whole.class_names, "class names changed, silently"
            assert found.preprocess == whole.preprocess, "preprocessing changed, silently"
            for key, array in whole.arrays.items():
                assert found.arrays[key].tobytes() == array.tobytes(), f"{key} changed, silently"
            return "read as it was"
        return "read"

    return attempt
