"""What every campaign of the torture program is made of: cases, tried one by one.

A campaign is a module with

- `prepare(folder)`, optional: makes, once, what all its workers share;
- `begin(folder)`: the function that tries one case, in a worker. It returns what happened, in a
  word or two or as a `Counter` of words, and raises where something did not hold.
"""

import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Campaign:
    """A module of this package, and how much of it is tried by default."""

    module: str
    about: str
    target: int  # cases
    share: float  # of the program's time
    few: int  # cases in `make test`
    limit: float = 120  # seconds that a case may take
    mounts: bool = False  # mounts file systems, where that is allowed


CAMPAIGNS = {
    name: Campaign(module, about, *numbers)
    for name, module, about, *numbers in (
        ("flips", "flips", "one bit of a run's or a weights file is flipped", 1000, 3, 60),
        ("damage", "damage", "files cut short, zeroed, missing, extra or swapped", 500, 2, 40),
        ("kills", "kills", "SIGKILL at any point of a run, several times over", 105, 6, 2),
        ("signals", "signals", "SIGINT, SIGTERM and SIGHUP at any time, once or twice", 60, 4, 2),
        ("disk", "disk", "a disk that is full, read-only or gone", 40, 2, 4, 120, True),
        ("mutations", "mutations", "damaged files for every reader", 100_000, 3, 1500, 20),
        ("hostile", "hostile", "files made to harm the reader", 2000, 1, 150, 20),
        ("pictures", "pictures", "broken and odd images in a folder", 500, 2, 45, 60),
        ("two", "two", "two processes at once in one place", 30, 2, 2),
    )
}


# Fails in every way there is: what the tests of the program itself run.
CONTROL = Campaign("control", "cases that fail, each in another way", 5, 0, 5, 3)

# The same faults in the files of libraries; what becomes of them is measured, and nothing fails.
OTHERS = Campaign("others", "other libraries' files", 10_000, 0, 50, 60)


def find(name: str) -> Campaign:
    """The campaign of a name."""
    return (CAMPAIGNS | {"control": CONTROL, "others": OTHERS})[name]


class Skip(Exception):
    """The reason for which a case can't be tried here."""


@dataclass(frozen=True)
class Case:
    """One case: everything in it follows from the campaign's name, the seed and its number."""

    campaign: str
    seed: int
    index: int
    within: Path  # the worker's folder

    @cached_property
    def random(self) -> np.random.Generator:
        """The case's own random numbers."""
        return np.random.default_rng([zlib.crc32(self.campaign.encode()), self.seed, self.index])

    @cached_property
    def folder(self) -> Path:
        """An empty folder, which is deleted after the case."""
        path = self.within / f"case-{self.index}"
        path.mkdir(parents=True)
        return path

    def clear(self) -> None:
        """Delete the case's folder, if it has one."""
        if "folder" in vars(self):
            shutil.rmtree(self.folder, ignore_errors=True)


def assert_one_sentence(error: str) -> None:
    """Assert that an error is one line of a length that people read."""
    assert len(error.splitlines()) == 1, f"an error of several lines: {error!r}"
    assert len(error) < 5000, f"an error of {len(error)} characters"
