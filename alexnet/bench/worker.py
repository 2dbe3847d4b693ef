"""A child process of `alexnet bench`: prepares one contender, and times it on command.

Commands come as lines of JSON on standard input, and answers go to standard output the same way;
`child.py` is the other end. Anything that libraries print goes to standard error. The process ends
when its input does, even in the middle of a step: no contender outlives its parent.
"""

import contextlib
import importlib
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from alexnet.bench.job import Job
from alexnet.errors import RunError, UserError, first_line

Run = Callable[[int], Any]  # runs a number of steps, and waits for them
_LONGEST = 1000  # characters of an error message


def main() -> int:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # A process forked from this one closes sys.stdin, and would block forever if one of our threads
    # were reading from it.
    given, sys.stdin = sys.stdin, open(os.devnull)  # noqa: SIM115
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(given, commands), daemon=True).start()
    try:
        job = Job(**commands.get())
        parts, about = _prepare(job)
        answers.write(json.dumps({"parts": list(parts), **about}) + "\n")
        while True:
            answers.write(json.dumps(_answer(commands.get(), parts, job)) + "\n")
    except (UserError, RunError) as error:
        kind = "user" if isinstance(error, UserError) else "run"
        answers.write(json.dumps({"error": kind, "message": str(error)[:_LONGEST]}) + "\n")
        return 1


def _listen(given: TextIO, commands: queue.SimpleQueue) -> None:
    """Read commands from the input, and end the process when the input ends."""
    for line in given:
        commands.put(json.loads(line))
    os._exit(0)


def _prepare(job: Job) -> tuple[dict[str, Run], dict[str, Any]]:
    """The parts that can be run, by name, and a description for the parent."""
    native = f"alexnet_{job.framework}.bench"
    try:
        parts, note = _parts(job)
    except Exception as error:
        if not job.compiled or isinstance(error, UserError | MemoryError):
            raise
        told = isinstance(error, RunError)  # by the engine, which says it is the compiler
        reason = str(error) if told else f"torch.compile failed: {first_line(error)}"
        return {}, {"unavailable": reason}
    device = importlib.import_module(native).device() if job.framework else {}
    return parts, {"note": note, "device": device}


def _parts(job: Job) -> tuple[dict[str, Run], str]:
    """The parts that can be run, each with its first call done, and a note."""
    if job.layers:
        from alexnet.bench.layers import layer_parts

        return layer_parts(job), ""
    if job.what == "input":
        from alexnet.bench.input import input_step

        return {"step": input_step(job)}, ""
    if job.what == "convert":
        from alexnet.bench.convert import conversions

        return conversions(job), ""
    from alexnet.bench.network import network_step

    step, wait, note = network_step(job)

    def run(count: int) -> Any:
        for _ in range(count):
            result = step()
        return wait(result)

    return {"step": run}, note


def _answer(command: Mapping[str, Any], parts: Mapping[str, Run], job: Job) -> dict[str, Any]:
    """The answer to a command."""
    if "peak" in command:
        from alexnet.bench.peak import peak_rate

        native = importlib.import_module(f"alexnet_{job.framework}.bench")
        return {"flops": peak_rate(native.matrix_product, job.precision, command["peak"])}
    if "memory" in command:
        found = {"host": _peak_memory(), "device": _peak_device_memory(job)}
        _forget_peak()
        return found
    if job.what == "input" or job.reads:
        from alexnet.bench.input import ahead

        parts[command["part"]](ahead(job))  # use up batches made while others were timed
    return _timed(parts[command["part"]], command["steps"])


def _timed(run: Run, steps: int) -> dict[str, float]:
    """Time a number of steps: wall-clock seconds, CPU seconds, and page faults."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run(steps)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt,
    }


def _peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    try:
        with open("/proc/self/status") as file:  # ru_maxrss would start at the parent's
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _forget_peak() -> None:
    """Reset the peak memory, if Linux lets this process do so (man 5 proc)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_device_memory(job: Job) -> int | None:
    if job.framework is None:
        return None
    return importlib.import_module(f"alexnet_{job.framework}.bench").peak_device_memory()


if __name__ == "__main__":
    sys.exit(main())
