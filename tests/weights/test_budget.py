"""Time and memory of converting the full network: 61 million numbers, 244 MB."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from alexnet.init import initial_weights
from alexnet.spec import variant
from alexnet.weights import Weights, load, save
from alexnet.weights.assemble import default_preprocess

# Run apart, so that its memory is its own. (`ru_maxrss` would begin with that of pytest.)
CONVERT = """
import json, os, resource, sys
from alexnet.weights import load, save
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return usage.ru_utime + usage.ru_stime, int(peak.split()[1]) * 1024
source, target = sys.argv[1:]
before, _ = used()
save(target, load(source))
after, memory = used()
print(json.dumps([after - before, memory / os.path.getsize(source)]))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "jax"}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_budget(tmp_path):
    spec = variant("torchvision")
    weights = Weights(initial_weights(spec, 0), spec, default_preprocess(spec))
    paths = [tmp_path / name for name in ("a.pth", "b.safetensors", "c.onnx", "d.msgpack", "e.pth")]
    try:
        save(paths[0], weights)
        for source, target in itertools.pairwise(paths):
            seconds, times = convert(source, target)
            print(f"{source.name} to {target.name}: {seconds:.2f} s, {times:.2f} times its size")
            assert times < 2.2  # the time is printed only: it is the machine's too
        again = load(paths[-1])
        assert all(np.array_equal(weights.arrays[n], array) for n, array in again.arrays.items())
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def convert(source, target) -> tuple[float, float]:
    """Processor seconds beyond imports, and memory over file size."""
    command = [sys.executable, "-c", CONVERT, str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.fail(result.stderr)
    first, second = result.stdout.splitlines()
    assert second == "[]", "converting imports no framework"
    return tuple(json.loads(first))
