"""What Orbax, torch and safetensors make of a flipped bit or a file cut short, beside this project.

`python -m tests.torture.others` prints a table. Each library writes the same arrays as its manual
says; one bit of its files is flipped, or one file is cut, and they are read again.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.torture.cases import OTHERS, Case
from tests.torture.harness import run

Arrays = dict[str, np.ndarray]
FAULTS = ("flip", "cut")
FATES = ("as it was", "silently changed", "refused", "crashed or hung")


def _arrays() -> Arrays:
    """A narrow network's."""
    from tests.weights.helpers import narrow

    return narrow("torchvision", width=1 / 16).arrays


def _write_orbax(folder: Path, arrays: Arrays) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", arrays)


def _read_orbax(folder: Path) -> Arrays:
    import jax
    import orbax.checkpoint as ocp

    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    target = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=host)
        for name, array in _arrays().items()
    }
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(folder / "state", target)
    return {name: np.asarray(array) for name, array in found.items()}


def _write_torch(folder: Path, arrays: Arrays) -> None:
    import torch

    torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, folder / "state.pt")


def _read_torch(folder: Path) -> Arrays:
    import torch

    found = torch.load(folder / "state.pt", weights_only=True)
    return {name: tensor.numpy() for name, tensor in found.items()}


def _write_safetensors(folder: Path, arrays: Arrays) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, folder / "state.safetensors")


def _read_safetensors(folder: Path) -> Arrays:
    from safetensors.numpy import load_file

    return load_file(folder / "state.safetensors")


def _write_run(write: Callable[[Path, Arrays], None]) -> Callable[[Path, Arrays], None]:
    """The same in a checkpoint of this project."""
    from alexnet.checkpoints import Checkpoints

    def written(folder: Path, arrays: Arrays) -> None:
        checkpoints = Checkpoints(folder / "checkpoints", 2, write)
        checkpoints.save(1, arrays, {})
        checkpoints.wait()

    return written


def _read_run(read: Callable[[Path], Arrays]) -> Callable[[Path], Arrays]:
    from alexnet.checkpoints import Checkpoints

    def restored(folder: Path) -> Arrays:
        found: list[Arrays] = []
        checkpoints = Checkpoints(folder / "checkpoints", 2, lambda *_: None)
        checkpoints.restore(lambda state: found.append(read(state)), lambda text: None)
        return found[0]

    return restored


def _write_own(folder: Path, arrays: Arrays) -> None:
    from alexnet.weights import save
    from tests.weights.helpers import narrow

    save(folder / "w.safetensors", narrow("torchvision", width=1 / 16))


def _read_own(folder: Path) -> Arrays:
    from alexnet.weights import load

    return load(folder / "w.safetensors").arrays


LIBRARIES: dict[str, tuple[Callable[[Path, Arrays], None], Callable[[Path], Arrays]]] = {
    "Orbax": (_write_orbax, _read_orbax),
    "torch.save, torch.load": (_write_torch, _read_torch),
    "safetensors": (_write_safetensors, _read_safetensors),
    "a checkpoint here, of JAX": (_write_run(_write_orbax), _read_run(_read_orbax)),
    "a checkpoint here, of torch": (_write_run(_write_safetensors), _read_run(_read_safetensors)),
    "a weights file here": (_write_own, _read_own),
}


def prepare(folder: Path) -> None:
    """Write the arrays by each library."""
    for name, (write, _) in LIBRARIES.items():
        path = folder / "others" / name
        path.mkdir(parents=True)
        write(path, _arrays())


def begin(folder: Path):
    """A function that damages one library's files and reads them."""
    from tests.torture.examine import equal, no_longer_than

    arrays = _arrays()

    def attempt(case: Case) -> str:
        name, fault = _what(case.index)
        path = case.folder / "files"
        shutil.copytree(folder / "others" / name, path)
        _damage(case.random, path, fault)
        try:
            with no_longer_than(20):
                found = LIBRARIES[name][1](path)
        except TimeoutError:
            raise
        except Exception:
            return f"{name}|{fault}|refused"
        return f"{name}|{fault}|{FATES[0 if equal(found, arrays) else 1]}"

    return attempt


def _what(index: int) -> tuple[str, str]:
    """A case's library and fault."""
    return list(LIBRARIES)[index // 2 // len(FAULTS) % len(LIBRARIES)], FAULTS[index // 2 % 2]


def _damage(random: np.random.Generator, path: Path, fault: str) -> None:
    """Flip a bit, or cut a file, at any byte of all files."""
    files = [one for one in sorted(path.rglob("*")) if one.is_file()]
    ends = np.cumsum([one.stat().st_size for one in files])
    at = int(random.integers(ends[-1]))
    number = int(np.searchsorted(ends, at, side="right"))
    file, place = files[number], at - int(ends[number - 1] if number else 0)
    if fault == "cut":
        os.truncate(file, place)
        return
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << int(random.integers(8))
    file.write_bytes(data)


def main(count: int = OTHERS.target) -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory(prefix="alexnet-torture-") as folder:
        jobs = len(os.sched_getaffinity(0))
        result = run("others", Path(folder), cases=range(count), jobs=min(jobs, 8))
    fates = Counter({tuple(key.split("|")): n for key, n in result.kinds.items()})
    for case, _ in result.failures:
        fates[(*_what(case), FATES[3])] += 1
    table = Table("written by", "fault", "tried", *FATES, box=None)
    for name in LIBRARIES:
        for fault in FAULTS:
            counts = [fates[(name, fault, fate)] for fate in FATES]
            table.add_row(name, fault, f"{sum(counts):,}", *(f"{n:,}" for n in counts))
    Console(width=110).print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
