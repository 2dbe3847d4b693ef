"""`python -m tests.tpu_bytes VARIANT [TOPOLOGY [BATCH [fsdp]]]`: where a compiled step's bytes go.

Compiles the training step in bf16 and has the compiler's own analysis count each operation alone.
Beside its count stands what is read and written in the chip's memory, each array once: the
analysis also counts what stays in the core's own memory (VMEM), some operands of a fusion twice,
and an array that is copied to or from VMEM four times, or three times where in pieces.
"""

import dataclasses
import re
import sys
from collections import defaultdict
from typing import Any, NamedTuple

import jax
from jaxlib import _hlo, _jax  # jax's public names analyze whole programs only

from alexnet.recipes import recipe
from alexnet_jax import parallel, topology
from alexnet_jax.hlo import array_bytes

_NAME = r"%([\w.\-]+)"
_CALLED = re.compile(rf"(?:calls|to_apply|select|scatter)={_NAME}")
_IN_VMEM = re.compile(r"\w+\[[^\]]*\]\{[^}]*S\(\d+\)[^}]*\}")
_COPIES = ("copy-done", "slice-done")
# They move nothing, or, as the first half of a copy, are counted with the second.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "custom-call",
    "copy-start", "slice-start",
}  # fmt: skip


class Operation(NamedTuple):
    """An instruction of a compiled program's main computation."""

    type: str
    kind: str
    operands: list[str]
    rest: str  # from the operands on


class Program(NamedTuple):
    """The operations of the main computation, and the text of the others, by name."""

    main: dict[str, Operation]
    others: dict[str, str]


def compiled_step(variant: str, slice_: str, batch_size: int, fsdp: bool) -> str:
    """The HLO text of a training step."""
    base = recipe("torchvision")
    config = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, variant=variant, precision="bf16"),
        data=dataclasses.replace(base.data, batch_size=batch_size),
        devices=dataclasses.replace(base.devices, fsdp=fsdp),
    )
    _, devices = topology.slice_devices(slice_)
    mesh = parallel.device_mesh(devices, len(devices), 1)
    return topology.lower_step(config, config.spec(1000), mesh).compile().as_text() or ""


def read(hlo_text: str) -> Program:
    """The parts of what `compiled.as_text()` gives."""
    program = Program({}, {})
    for block in re.findall(r"^(?:ENTRY )?%.*\{\n(?:.*\n)*?\}", hlo_text, re.MULTILINE):
        if not block.startswith("ENTRY"):
            program.others[re.match(_NAME, block)[1]] = block
            continue
        for name, *parts in re.findall(rf"{_NAME} = (.*?) ([a-z][\w\-]*)\((.*)", block):
            operands = re.findall(_NAME, parts[2].partition("), ")[0])
            program.main[name] = Operation(*parts[:2], operands, parts[2])
    return program


def counted(name: str, program: Program) -> float:
    """The analysis's count of bytes for one operation; for both halves of a copy."""
    main, others = program
    names = [main[name].operands[0], name] if main[name].kind in _COPIES else [name]
    inputs = dict.fromkeys(o for one in names for o in main[one].operands if o not in names)
    lines = [f"%{one} = {main[one].type} parameter({i})" for i, one in enumerate(inputs)]
    for one in names:
        type_, kind, _, rest = main[one]
        bare = re.sub(r", (?:metadata|control-predecessors)=\{[^}]*\}", "", rest)
        lines.append(f"{'ROOT ' * (one == name)}%{one} = {type_} {kind}({bare}")
    needed, new = set[str](), set(_CALLED.findall("\n".join(lines)))
    while new:
        needed |= new
        new = {called for part in new for called in _CALLED.findall(others[part])} - needed
    parts = [block for part, block in others.items() if part in needed]
    text = "\n\n".join(["HloModule one", *parts, "ENTRY %one {\n" + "\n".join(lines) + "\n}"])
    cpu: Any = jax.devices("cpu")[0]
    found = _jax.hlo_module_cost_analysis(cpu.client, _hlo.hlo_module_from_text(text))
    return found.get("bytes accessed", 0.0)


def in_memory(operation: Operation, program: Program) -> int:
    """The bytes that an operation reads and writes outside VMEM, each array once."""
    if operation.kind in _COPIES:
        return array_bytes(operation.type)
    types = [operation.type, *(program.main[name].type for name in operation.operands)]
    return sum(array_bytes(_IN_VMEM.sub("", type_)) for type_ in types)


def place(operation: Operation) -> str:
    """A layer and its direction, or the part of the step, that an operation belongs to."""
    if operation.kind in _COPIES:
        return "copies to and from VMEM"
    if operation.kind.startswith("all-reduce"):
        return "all-reduce"
    found = re.search(r'op_name="([^"]*)"', operation.rest)
    name = found[1] if found else ""
    if layer := re.search(r"(transpose\()?jvp\((\w*)\)", name):
        return f"{layer[2] or 'input and loss'}, {'backward' if layer[1] else 'forward'}"
    return "update" if name.endswith("/add") else "other"


def main(variant: str, slice_: str = "v5e:2x2", batch_size: str = "512", fsdp: str = "") -> None:
    """Print a table."""
    program = read(compiled_step(variant, slice_, int(batch_size), fsdp == "fsdp"))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, operation in program.main.items():
        if operation.kind not in _FREE:
            own = sums[place(operation)]
            own[0] += counted(name, program)
            own[1] += in_memory(operation, program)
    sums["all"] = [sum(column) for column in zip(*sums.values(), strict=True)]
    print("| | MB accessed | in the chip's memory, MB |\n|---|---|---|")
    for label, (all_, memory) in sorted(sums.items(), key=lambda one: -one[1][0]):
        if all_ >= 5e6:
            print(f"| {label} | {all_ / 1e6:,.0f} | {memory / 1e6:,.0f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
