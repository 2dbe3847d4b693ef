"""Odd and broken images among sound ones in a folder: pixels, or a sentence that names the file."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.dataset import Source
from alexnet.data.images import BadImage, decode
from alexnet.data.pipeline import BadImages, Loading, eval_batches
from alexnet.data.sources import open_dataset
from alexnet.errors import UserError
from alexnet.preprocess import EvalProtocol
from tests.torture.cases import Case
from tests.torture.examine import no_longer_than
from tests.torture.memory import bounded
from tests.torture.odd_images import BROKEN, EITHER, IGNORED, KINDS, SOUND, any_kind
from tests.torture.runs import tail
from tests.torture.zygote import Zygote

SECONDS = 40
MEMORY = 1200 << 20  # for an image of the most pixels that are taken, and its copies
BY_COMMAND = 15  # of so many cases, one trains on the folder
STEMS = ("x", "n01440764_18", "\x1b[31mred", "a\nerror: all is lost", os.fsdecode(b"\xff\xfe"),
         "é",
         "[bold]x", " ", "-rf", "\u202egpj", "a" * 200, "%s", "'\"", "x\r")  # fmt: skip
SIZE = EvalProtocol("short", 16, 16)


def begin(folder: Path):
    """A function that puts one such file into a folder of images and reads all of them."""
    zygotes: list[Zygote] = []
    groups = {"sound": SOUND, "broken": BROKEN, "either": EITHER, "ignored": IGNORED}
    kinds = [(group, name) for group, makers in groups.items() for name in makers]

    def attempt(case: Case) -> str:
        group, name = kinds[case.index % len(kinds)]
        channels = int(case.random.choice([1, 3]))
        path = _folder(case) / "a" / (STEMS[case.random.integers(len(STEMS))] + _suffix(case))
        try:
            groups[group][name](case.random, path)
            with warnings.catch_warnings(), no_longer_than(SECONDS), bounded(0, MEMORY):
                warnings.simplefilter("ignore")
                word = "passed over" if group == "ignored" else _decoded(path, channels)
                _batches(case, path, word, channels)
            assert word in {"sound": ("pixels",), "broken": ("refused",)}.get(group, (word,)), word
            if case.index % BY_COMMAND == 0:
                zygotes[:] = zygotes or [Zygote("torch")]
                _trained(case, zygotes[0])
        except Exception as error:
            error.add_note(f"{name}, {path.name!a}")
            raise
        return "root reads it anyway" if name == "no permission" and word == "pixels" else word

    return attempt


def _suffix(case: Case) -> str:
    return list(KINDS.values())[case.random.integers(len(KINDS))]


def _folder(case: Case) -> Path:
    """A folder of two classes with a few sound images."""
    root = case.folder / "photos"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            (root / name / f"{number}.png").write_bytes(any_kind(case.random))
    return root


def _decoded(path: Path, channels: int) -> str:
    try:
        pixels = decode(path, channels)
    except BadImage as error:
        text = str(error)
        assert text.isprintable(), f"control characters in the reason: {text!r}"
        assert len(text) < 600, f"a reason of {len(text)} characters"
        return "refused"
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == channels
    with Image.open(path) as image:  # as it lies in the file, whatever EXIF says
        assert pixels.shape[:2] == (image.height, image.width)
    return "pixels"


def _batches(case: Case, path: Path, word: str, channels: int) -> None:
    """Read the folder as a run does: `skip` counts what is left out, `raise` names it."""
    data = open_dataset(f"folder:{path.parent.parent}", seed=case.seed)
    expected = int(word == "refused")
    assert len(data.train) + len(data.eval) == 12 + (word != "passed over")
    sentences, seen = [], 0
    for part in (data.train, data.eval):
        bad = BadImages()
        seen += _read(part, Loading(4, channels, on_bad_image="skip"), bad)
        sentences += bad.sentences
        raised = _refusal(part, Loading(4, channels))
        assert bool(raised) == bool(bad), f"skip leaves {len(bad)} out, raise says {raised!r}"
        sentences += [raised] if raised else []
    assert len(sentences) == 2 * expected, sentences
    assert seen == len(data.train) + len(data.eval) - expected
    for text in sentences:
        assert text.isprintable(), f"control characters: {text!r}"
        name = path.name if str(path).isprintable() else ascii(path.name)[1:-1]
        assert name in text, f"{text!r} doesn't name the file"


def _read(part: Source, loading: Loading, bad: BadImages) -> int:
    """Examples that are read from a part of a data set."""
    return round(sum(float(b["mask"].sum()) for b in eval_batches(part, SIZE, loading, bad)))


def _refusal(part: Source, loading: Loading) -> str:
    """The sentence that reading a part of a data set ends with, if it does."""
    try:
        _read(part, loading, BadImages())
    except UserError as error:
        return str(error)
    return ""


def _trained(case: Case, zygote: Zygote) -> None:
    """Train on the folder by the command, which shows no control characters."""
    log = case.folder / "log"
    words = ["train", "--framework", "torch", "--recipe", "digits", "--width", "0.03",
             "--image-size", "64", "--batch-size", "4", "--steps", "2", "--on-bad-image", "skip",
             "--dataset", f"folder:{case.folder / 'photos'}", "--workdir", case.folder / "run",
             ]  # fmt: skip
    code = zygote.run(words, log)
    text = log.read_text(errors="surrogateescape")
    assert code == 0, f"training ended with {code}: {tail(log)}"
    odd = {char for char in text if not char.isprintable()} - {"\n"}
    assert not odd, f"control characters on the terminal: {odd}"
    assert "Traceback" not in text
