"""Damaged weights files for every reader: refused in one sentence, or read as weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from alexnet.errors import UserError
from alexnet.weights import Weights, check
from tests.torture.cases import Case
from tests.torture.memory import ONNX, SPARE, bounded
from tests.weights.mutants import SUBJECTS, Subject, mutate, structure_of


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
            text = str(error)
            assert len(text.splitlines()) == 1, f"an error of several lines: {text}"
            assert len(text) < 5000, f"an error of {len(text)} characters"
            return None
    return weights


def begin(folder: Path):
    """A function that reads one damaged file."""
    names = list(SUBJECTS)

    def attempt(case: Case) -> str:
        name = names[case.index // 2 % len(names)]  # two workers, all formats in both
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
        if name == "safetensors":  # it has digests
            whole = subject.weights
            assert found.class_names == whole.class_names, "class names changed, silently"
            assert found.preprocess == whole.preprocess, "preprocessing changed, silently"
            for key, array in whole.arrays.items():
                assert found.arrays[key].tobytes() == array.tobytes(), f"{key} changed, silently"
            return "read as it was"
        return "read"

    return attempt
