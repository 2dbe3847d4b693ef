"""A run's files cut short, zeroed, removed, swapped, or replaced by what is no such file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from tests.torture import flips, runs
from tests.torture.cases import Case
from tests.torture.examine import Whole, try_both
from tests.torture.zygote import Zygote

prepare = flips.prepare


def cut(random: np.random.Generator, path: Path, file: Path) -> None:
    os.truncate(file, int(random.integers(file.stat().st_size)))


def zero(random: np.random.Generator, path: Path, file: Path) -> None:
    """Zeros in place of a page, as a lost write leaves them."""
    size, page = file.stat().st_size, int(random.choice([512, 4096, 65536]))
    start = int(random.integers(size)) // page * page
    with file.open("r+b") as open_:
        open_.seek(start)
        open_.write(bytes(min(page, size - start)))


def remove(random: np.random.Generator, path: Path, file: Path) -> None:
    file.unlink()


def empty(random: np.random.Generator, path: Path, file: Path) -> None:
    file.write_bytes(b"")


def append(random: np.random.Generator, path: Path, file: Path) -> None:
    with file.open("ab") as open_:
        open_.write(random.bytes(int(random.integers(1, 100))))


def random_bytes(random: np.random.Generator, path: Path, file: Path) -> None:
    file.write_bytes(random.bytes(int(random.integers(1, 2000))))


def extra(random: np.random.Generator, path: Path, file: Path) -> None:
    """A file that nobody wrote, beside another."""
    names = ["new", ".hidden", "x.tmp", "0", "state"]
    free = [name for name in names if not (file.parent / name).exists()]
    (file.parent / random.choice(free)).write_bytes(b"x")


def swap(random: np.random.Generator, path: Path, file: Path) -> None:
    other = random.choice([one for one in flips.subjects(path) if one != file])
    between = path / "between"
    os.rename(file, between)
    os.rename(other, file)
    os.rename(between, other)


def copy_of_another(random: np.random.Generator, path: Path, file: Path) -> None:
    other = random.choice([one for one in flips.subjects(path) if one != file])
    shutil.copyfile(other, file)


def fifo(random: np.random.Generator, path: Path, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(random: np.random.Generator, path: Path, file: Path) -> None:
    """A link to nothing, to itself, to a folder, or to a device that never ends."""
    file.unlink()
    file.symlink_to(random.choice(["nothing", file.name, ".", "/dev/zero"]))


def folder(random: np.random.Generator, path: Path, file: Path) -> None:
    file.unlink()
    file.mkdir()


def odd_checkpoint(random: np.random.Generator, path: Path, file: Path) -> None:
    """A copy of a checkpoint under another step's name, or under none."""
    checkpoints = path / "checkpoints"
    source = random.choice(sorted(checkpoints.iterdir()))
    names = ("00000013", "99999999999999999999", "٠٠٠٠٠٠١٣", "²", "-0000001", "damaged-00000012",
             "00000012 ", "12", "1e3", "")  # fmt: skip
    shutil.copytree(source, checkpoints / (random.choice(names) or "x" * 200))


def odd_entry(random: np.random.Generator, path: Path, file: Path) -> None:
    """Something in `checkpoints/` that is no checkpoint."""
    entry = path / "checkpoints" / random.choice(["00000013", "damaged-00000012", "99999999"])
    make = [
        lambda: entry.write_bytes(b"x"),
        entry.mkdir,
        lambda: os.mkfifo(entry),
        lambda: entry.symlink_to("00000012"),
        lambda: entry.symlink_to(entry.name),
        lambda: entry.symlink_to("."),
    ]
    make[random.integers(len(make))]()


def json_value(random: np.random.Generator, path: Path, file: Path) -> None:
    """A value of another type or size somewhere in a file of JSON."""
    files = [one for one in flips.subjects(path) if one.suffix == ".json"]
    file = random.choice(files)
    values = json.loads(file.read_text())
    place, keys = values, list(values)
    while True:
        key = keys[random.integers(len(keys))]
        inside = place[key]
        if not (isinstance(inside, dict | list) and inside and random.random() < 0.8):
            break
        place, keys = inside, list(inside) if isinstance(inside, dict) else range(len(inside))
    odd = [None, True, -1, 10**400, 1e308, float("nan"), "", "x" * 10_000, [], {}, [[[]]], "\ud800"]
    place[key] = odd[random.integers(len(odd))]
    text = json.dumps(values)
    file.write_text(text.replace("[[[]]]", "[" * 100_000 + "]" * 100_000))


def lines(random: np.random.Generator, path: Path, file: Path) -> None:
    """A line of the metrics lost, doubled or moved."""
    metrics = path / "metrics.jsonl"
    found = metrics.read_text().splitlines(keepends=True)
    at, to = (int(n) for n in random.choice(len(found), 2, replace=False))
    match random.integers(3):
        case 0:
            del found[at]
        case 1:
            found.insert(to, found[at])
        case 2:
            found[at], found[to] = found[to], found[at]
    metrics.write_text("".join(found))


def json_with_both(random: np.random.Generator, path: Path, file: Path) -> None:
    """Two latest checkpoints damaged, or the latest damaged for the second time."""
    for checkpoint in sorted((path / "checkpoints").iterdir()):
        (checkpoint / "meta.json").write_text("[]")
    if random.random() < 0.5:
        shutil.copytree(path / "checkpoints/00000012", path / "checkpoints/damaged-00000012")


FAMILIES = (
    cut, cut, zero, zero, remove, empty, append, random_bytes, extra, swap, copy_of_another, fifo,
    link, folder, odd_checkpoint, odd_entry, json_value, lines, json_with_both,
)  # fmt: skip


def begin(folder: Path):
    """A function that damages a run in one way and reads everything."""
    whole = {kind: Whole.of(folder, kind) for kind in runs.KINDS}
    zygotes: dict[str, Zygote] = {}

    def attempt(case: Case):
        kind = runs.KINDS[case.index % len(runs.KINDS)]
        family = FAMILIES[case.random.integers(len(FAMILIES))]
        path = case.folder / "run"
        shutil.copytree(whole[kind].path, path)
        files = flips.subjects(path)
        file = files[case.random.integers(len(files))]
        family(case.random, path, file)
        what = f"{family.__name__}, {kind}'s {file.relative_to(path)}"
        return try_both(case, path, whole[kind], zygotes, what)

    return attempt
