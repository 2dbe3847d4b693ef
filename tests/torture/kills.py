"""A run is killed again and again, and resumed: in the end it is the run that nothing ended.

A kill falls on a change to a file of the run, any of them, before it or shortly after: that is
while something is written, renamed, deleted or logged, while resuming too.
"""

from collections import Counter
from pathlib import Path

from tests.torture.cases import Case
from tests.torture.runs import (
    FRAMEWORKS,
    KINDS,
    assert_same_run,
    begin_or_resume,
    changes,
    finish,
    framework_of,
    make_all_references,
    reference,
    tail,
)
from tests.torture.zygote import Zygote

KILLS = 6  # in a case, at the most
LATER = 0.05  # seconds after a change


prepare = make_all_references


def begin(folder: Path):
    """A function that tries one chain of kills."""
    zygotes = {framework: Zygote(framework) for framework in FRAMEWORKS}
    count = {name: len(changes(folder, name).read_text().splitlines()) for name in KINDS}

    def attempt(case: Case) -> Counter:
        kind = KINDS[case.index % len(KINDS)]
        zygote = zygotes[framework_of(kind)]
        path, log, happened = case.folder / "run", case.folder / "log", Counter()
        planned = int(case.random.integers(1, KILLS + 1))
        for _ in range(planned):
            at = int(case.random.integers(1, count[kind] + 1))
            delay = float(case.random.choice([0, case.random.uniform(0, LATER)]))
            words = begin_or_resume(path, kind)
            fault = {"at": at, "delay": delay, "folder": str(path)}
            code = zygote.run(words, log, **fault)
            assert code in (0, -9), f"{words[-1]}: ended with {code}: {tail(log)}"
            happened["kills" if code else "runs that ended first"] += 1
        finish(zygote, path, kind, log)
        assert_same_run(path, reference(folder, kind))
        return happened

    return attempt
