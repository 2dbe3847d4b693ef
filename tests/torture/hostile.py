"""Files made to harm whoever reads them: refused in one sentence, in bounded time and memory.

Each family makes files of one kind with other sizes, places and values in every case. A canary
tells if code from a file ran.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from alexnet.errors import RunError, UserError
from alexnet.weights import load
from tests.torture import hostile_archives as archives
from tests.torture import hostile_folders as folders
from tests.torture import hostile_graphs as graphs
from tests.torture.cases import Case, assert_one_sentence
from tests.torture.examine import no_longer_than
from tests.torture.hostile_pickles import pickled
from tests.torture.memory import LIBRARIES, ONNX, SPARE, bounded
from tests.torture.runs import FRAMEWORKS, make_references, reference

SECONDS = 15
FILES: tuple[Callable, ...] = (
    pickled, pickled, pickled, pickled, archives.zip_, archives.tar, archives.safetensors,
    archives.sealed, archives.sealed, archives.msgpack, archives.mat_, archives.hdf5, archives.npy,
    archives.no_file, graphs.onnx_, graphs.onnx_, graphs.second_file, graphs.tiny_onnx,
    graphs.caffe, graphs.constants,
)  # fmt: skip
FOLDERS: tuple[Callable, ...] = (folders.tfds, folders.cached, folders.hugging_face)

prepare = make_references


def begin(folder: Path):
    """A function that makes one such file and reads it."""
    families = {family.__name__: family for family in FILES + FOLDERS}
    for framework in FRAMEWORKS:
        whole = reference(folder, framework)
        families[f"forged_{framework}"] = partial(folders.forged_run, whole)
    names = [*(family.__name__ for family in FILES), *families]

    def attempt(case: Case) -> str:
        name = names[case.random.integers(len(names))]
        here = case.folder / "files"
        here.mkdir()
        canary = case.folder / "ran"
        try:
            word = _try(case, families[name], here, canary)
            assert not canary.exists(), "code from the file ran"
            assert not (case.folder.parent / "ran").exists(), "a file appeared outside"
        except Exception as error:
            error.add_note(name)
            raise
        return word

    return attempt


def _try(case: Case, family: Callable, here: Path, canary: Path) -> str:
    if family not in FILES:
        return _refused(lambda: family(case.random, here, canary), 0, LIBRARIES)
    path, format = family(case.random, here, canary)
    size = sum(one.stat().st_size for one in here.iterdir() if one.is_file())
    told = case.random.random() < 0.5
    spare = ONNX if format == "onnx" else SPARE
    return _refused(lambda: load(path, format if told else None), min(size, 1 << 30), spare)


def _refused(read: Callable, size: int, spare: int = SPARE) -> str:
    with no_longer_than(SECONDS), bounded(size, spare):
        try:
            read()
        except (UserError, RunError) as error:
            assert_one_sentence(str(error))
            return "refused"
    return "read"
