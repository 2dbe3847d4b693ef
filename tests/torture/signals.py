"""A run gets a signal at any time from its first line on, or two, and is resumed.

It ends with the signal's exit code and without a traceback, what was there to save is saved, and
the resumed run ends as the one that nothing stopped.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.torture.cases import Case
from tests.torture.runs import (
    FRAMEWORKS,
    assert_same_run,
    begin_or_resume,
    finish,
    make_references,
    reference,
)
from tests.torture.zygote import Zygote

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
LATEST = 6  # seconds after the first line; a run takes four on an idle machine
TRAINING = 1.5  # seconds after the log has begun, in half of the cases
SECOND = 0.3  # the share of cases with a second signal
AT_ONCE = 10  # seconds that ending at once may take, on a machine that does much else
END = 60
# Says that Python is there, and becomes train.py. A campaign in the background or under nohup hands
# on signals that are ignored, which a run would leave ignored.
_FIRST_LINE = """
import _signal, os, sys
_signal.signal(_signal.SIGHUP, _signal.SIG_DFL)
_signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
os.write(1, b"first line\\n")
exec(compile(open(sys.argv[1]).read(), sys.argv.pop(1), "exec"))
"""
_UNWANTED = ("Traceback", "Exception ignored", "Fatal Python error", "Segmentation")

prepare = make_references


def begin(folder: Path):
    """A function that sends one or two signals to a run."""
    zygotes = {framework: Zygote(framework) for framework in FRAMEWORKS}

    def attempt(case: Case) -> str:
        framework = FRAMEWORKS[case.index % len(FRAMEWORKS)]
        path, log = case.folder / "run", case.folder / "log"
        first, second = (list(CODES)[n] for n in case.random.integers(len(CODES), size=2))
        training = bool(case.random.integers(2))
        delay = float(case.random.uniform(0.002, TRAINING if training else LATEST))
        twice = case.random.random() < SECOND
        between = float(case.random.uniform(0, 0.6)) if twice else None
        what = f"{framework}, {first.name} {delay:.3f} s after "
        what += "the log began" if training else "the first line"
        what += f", {second.name} {between:.3f} s later" if between is not None else ""
        try:
            code, output, took = _signalled(
                path, framework, training, delay, first, second, between
            )
            allowed = {CODES[first], CODES[second] if twice else CODES[first]}
            assert code in allowed or "test top-1" in output, f"it ended with {code}: {output!r}"
            found = [word for word in _UNWANTED if word in output]
            assert not found, f"{found[0]}: {output!r}"
            assert took < AT_ONCE or not twice, f"the second signal took {took:.0f} s"
            stray = [one.name for one in path.rglob("*.tmp")] if path.exists() else []
            assert not stray, f"left behind: {stray}"
            finish(zygotes[framework], path, framework, log)
            assert_same_run(path, reference(folder, framework), with_steps=False)
        except Exception as error:
            error.add_note(what)
            raise
        if code == 0:
            return f"{framework}: the run ended first"
        if "saving, then stopping" not in output:
            return f"{framework}: ended while it began"
        return f"{framework}: " + ("ended at once" if twice else "saved and ended")

    return attempt


def _signalled(
    path: Path,
    framework: str,
    training: bool,
    delay: float,
    first: int,
    second: int,
    between: float | None,
) -> tuple[int, str, float]:
    """Exit code and output of a run that gets signals, and how long it took after the last."""
    words = [str(word) for word in begin_or_resume(path, framework)[1:]]
    process = subprocess.Popen(
        [sys.executable, "-c", _FIRST_LINE, ROOT / "train.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )
    assert process.stdout
    process.stdout.readline()
    while training and process.poll() is None and not (path / "metrics.jsonl").exists():
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(first)
    if between is not None:
        time.sleep(between)
        process.send_signal(second)
    start = time.monotonic()
    try:
        output, _ = process.communicate(timeout=END)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it didn't end: {process.communicate()[0][-500:]!r}") from None
    text = output.decode(errors="replace")
    return process.returncode, text[-1500:], time.monotonic() - start
