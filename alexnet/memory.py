"""Memory that is taken and given back step by step, and what the system charges for that."""

import _signal  # `signal` itself takes milliseconds, in which a Ctrl-C would be a traceback
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Of glibc's malloc.h. An int is all that mallopt takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1

_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_CHOICE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
_PROGRAMS = ("alexnet", "train.py")
_RESTARTED = "ALEXNET_RESTARTED"  # by which process


def keep_freed() -> bool:
    """Have the C library keep memory that is freed, for the next step; False where it can't.

    glibc gives large blocks back to the system at once, and every page of the next step's
    gradients and activations is then a page fault (docs/performance.md). JAX gains nothing: it
    allocates in threads, whose arenas are too small for this.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 64 << 20}
    return all(mallopt(option, value) == 1 for option, value in options.items())


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a new process takes large blocks of memory in pages of 2 MB.

    It is as it was where the user has decided, where glibc is older than 2.35 or missing, and where
    the system gives such pages to everybody, or to nobody.
    """
    before = environment.get(_TUNABLES, "")
    with contextlib.suppress(OSError, ValueError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        new = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
        if new and _HUGE not in before and "[madvise]" in _CHOICE.read_text():
            wish = f"{before}:{_HUGE}=1".removeprefix(":")
            return {**environment, _TUNABLES: wish}
    return dict(environment)


def restart_with_huge_pages() -> None:
    """Become the same process anew, once, in that environment: glibc looks there as it starts.

    A signal that comes in between waits until the new one can answer it. Only a program that was
    started by itself restarts, not one in a debugger, a profiler or somebody's own program.
    """
    here = str(os.getpid())  # which stays: glibc or somebody may have taken the wish away
    if os.environ.get(_RESTARTED) == here:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _SIGNALS)
        return
    environment = with_huge_pages(os.environ)
    if environment == dict(os.environ) or not _is_started_alone() or not sys.executable:
        return
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
    try:
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**environment, _RESTARTED: here})
    except OSError:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _is_started_alone() -> bool:
    """Tell whether this is `python train.py`, `alexnet` or `python -m alexnet`, with its words."""
    first = len(sys.orig_argv) - len(sys.argv)  # the program's place, behind Python's own options
    if first < 1 or sys.orig_argv[first + 1 :] != sys.argv[1:] or sys.gettrace():
        return False
    options, program = sys.orig_argv[1:first], sys.orig_argv[first]
    names = ("alexnet",) if options[-1:] == ["-m"] else _PROGRAMS
    return os.path.basename(program) in names and all(word.startswith("-") for word in options)
