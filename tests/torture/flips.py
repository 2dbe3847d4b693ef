"""One bit flipped in a file of a run, chosen anew in each case."""

import shutil
from pathlib import Path

from tests.torture import runs
from tests.torture.cases import Case
from tests.torture.examine import Whole, try_both
from tests.torture.zygote import Zygote

_UNREAD = ("tensorboard", "curve.png")  # for people; no run reads them


prepare = runs.make_all_references


def subjects(path: Path) -> list[Path]:
    """The files of a run that are read again, the small ones of text twice, as they matter most."""
    found = [one for one in sorted(path.rglob("*")) if one.is_file()]
    read = [one for one in found if not str(one.relative_to(path)).startswith(_UNREAD)]
    return read + [one for one in read if one.suffix in (".json", ".jsonl")] * 3


def begin(folder: Path):
    """A function that flips one bit and reads everything."""
    whole = {kind: Whole.of(folder, kind) for kind in runs.KINDS}
    zygotes: dict[str, Zygote] = {}

    def attempt(case: Case):
        kind = runs.KINDS[case.index % len(runs.KINDS)]
        path = case.folder / "run"
        shutil.copytree(whole[kind].path, path)
        files = subjects(path)
        file = files[case.random.integers(len(files))]
        data = bytearray(file.read_bytes())
        place, bit = int(case.random.integers(len(data))), int(case.random.integers(8))
        data[place] ^= 1 << bit
        file.write_bytes(data)
        where = f"bit {bit} of byte {place} of {kind}'s {file.relative_to(path)}"
        return try_both(case, path, whole[kind], zygotes, where)

    return attempt
