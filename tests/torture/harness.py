"""Runs campaigns in workers, so that a crash, a hang or much memory is a result like any other."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.conftest import ROOT
from tests.torture.cases import find

BEGIN = 240  # seconds that a worker may take to begin
LISTED = 20  # failures that are listed


@dataclass
class Result:
    """What came of a campaign."""

    campaign: str
    seed: int
    target: int
    held: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)  # case, what went wrong
    skipped: Counter = field(default_factory=Counter)  # by reason
    kinds: Counter = field(default_factory=Counter)  # what happened in the cases that held
    seconds: float = 0.0
    left: list[range] = field(default_factory=list)  # cases not tried yet, by worker

    @property
    def tried(self) -> int:
        """Cases that came to an end, well or not."""
        return self.held + len(self.failures)

    def again(self, case: int) -> str:
        """The command that repeats one case."""
        return f"python -m tests.torture --only {self.campaign} --seed {self.seed} --case {case}"

    def add(self, outcome: dict) -> None:
        """Count one case."""
        if "held" in outcome:
            self.held += 1
            self.kinds.update(outcome["held"])
        elif "skipped" in outcome:
            self.skipped[outcome["skipped"]] += 1
        else:
            self.failures.append((outcome["case"], outcome["failed"]))


def environment(folder: Path) -> dict[str, str]:
    """A worker's environment: this package, one CPU device, temporary files in `folder`."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }


def run(
    name: str,
    folder: Path,
    *,
    seed: int = 0,
    cases: range | None = None,
    seconds: float = 3600,
    jobs: int = 1,
    show: Callable[[Result], None] = lambda result: None,
    begun: Result | None = None,
) -> Result:
    """Try a campaign's cases, or those that one which ran out of time has left.

    Args:
        name: the campaign.
        folder: for files; what several campaigns share is made there once.
        seed: changes every case.
        cases: their numbers; by default as many as the campaign's target.
        seconds: after which no further case is begun, counted from when all is prepared.
        jobs: workers at once.
        show: called after each case.
        begun: what `run` returned for the same campaign and folder; it goes on from there.
    """
    cases = cases or range(find(name).target)
    result = begun or Result(
        name, seed, len(cases), left=[cases[number::jobs] for number in range(jobs)]
    )
    lock = threading.Lock()

    def add(outcome: dict) -> None:
        with lock:
            result.add(outcome)
            show(result)

    base = [
        *(_namespace() if find(name).mounts else ()),
        sys.executable,
        "-m",
        "tests.torture.worker",
        name,
        "--shared",
        folder,
    ]
    prepare = [*base, "--own", folder / "prepare", "--prepare"]
    for outcome in _outcomes(prepare, folder, BEGIN) if begun is None else ():
        if "failed" in outcome:
            add({"case": cases[0], "failed": f"preparing: {outcome['failed']}"})
            result.left.clear()
            return result
    start = time.monotonic()

    def work(number: int) -> None:
        while following := result.left[number]:
            own = folder / f"{name}-{number}"
            words = [*base, "--own", own, "--seed", seed, "--until", start + seconds]
            words += ["--first", following.start, "--end", following.stop, "--step", following.step]
            limit, ready = find(name).limit, False
            for outcome in _outcomes(words, folder, limit):
                ready = ready or "ready" in outcome
                if "ready" not in outcome:
                    left = result.left[number]
                    add({"case": left[0] if left else cases[-1]} | outcome)
                    result.left[number] = left[1:]
            if not ready or time.monotonic() > start + seconds:
                break

    workers = range(len(result.left))
    threads = [threading.Thread(target=work, args=(number,)) for number in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds += time.monotonic() - start
    return result


@cache
def _namespace() -> tuple[str, ...]:
    """Words before a command that may mount: what it mounts is gone when it ends."""
    mounting = ("sh", "-c", "mount -t tmpfs none /mnt")
    for words in (("unshare", "-m"), ("unshare", "-rm")):
        with contextlib.suppress(OSError):
            if subprocess.run([*words, *mounting], capture_output=True).returncode == 0:
                return words
    return ()


def _outcomes(words: list, folder: Path, limit: float) -> Iterator[dict]:
    """A worker's results; the last is a failure if the worker was ended by a crash or a hang."""
    worker = subprocess.Popen(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(folder),
        start_new_session=True,
    )
    said = [b""]
    listener = threading.Thread(target=_listen, args=(worker.stderr, said))
    listener.start()
    try:
        for line in _lines(worker.stdout.fileno(), limit):
            if line is None:
                yield {"failed": "it took too long"}
                return
            yield json.loads(line)
        if worker.wait(30):
            last = said[0].decode(errors="replace").strip().splitlines()[-1:]
            yield {"failed": f"the worker ended with {_code(worker.returncode)}: {last}"}
    finally:
        _end(worker)
        listener.join()


def _lines(pipe: int, limit: float) -> Iterator[bytes | None]:
    """What comes through a pipe, line by line; None, and the end, where nothing comes in time."""
    rest, allowed = b"", float(BEGIN)
    while select.select([pipe], [], [], allowed)[0]:
        if not (block := os.read(pipe, 1 << 16)):
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        allowed = limit
    yield None


def _listen(pipe, said: list[bytes]) -> None:
    """Keep the last of what a worker prints."""
    while block := pipe.read1():
        said[0] = (said[0] + block)[-4000:]


def _code(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(worker: subprocess.Popen) -> None:
    """End a worker and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
