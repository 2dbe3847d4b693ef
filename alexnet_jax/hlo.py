"""The exchanges between devices in a compiled program, read from its HLO text."""

import math
import re
from typing import NamedTuple

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"

# One instruction: its type, its kind, and whether it is the first half of an asynchronous pair.
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>\([^\"]*?\)|[^\s\"]+) "
    rf"(?:ragged-)?(?P<kind>{KINDS})(?P<start>-start)?\((?P<rest>.*)"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_LAYOUT = re.compile(r"\{[^}]*\}|/\*.*?\*/")
_STARTED = re.compile(r"\((?:\(.*?\)|\S+), (?P<result>\(.*?\)|[^\s)]+)")  # (inputs, results, ...)
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")


class Collective(NamedTuple):
    """One exchange between the devices of a group.

    Attributes:
        kind: one of `KINDS`.
        bytes: size of the whole arrays on one device: the output or, for a reduce-scatter, the
            input.
        group_size: how many devices exchange with one another.
    """

    kind: str
    bytes: int
    group_size: int


def collectives(hlo_text: str) -> list[Collective]:
    """The collectives of a compiled program, in the text's order, each counted once.

    The second half of an asynchronous pair is not counted, nor are the copies that TPU compilers
    make of an instruction to spread it over several fusions. A collective in a loop's body counts
    once, however often the loop runs.

    Args:
        hlo_text: the result of `compiled.as_text()`.
    """
    sizes = re.findall(r"(?:replica_count|num_partitions)=(\d+)", hlo_text.split("\n", 1)[0])
    devices, computation, found, seen = math.prod(map(int, sizes)), "", [], set()
    for line in hlo_text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header["name"]
        if not (one := _INSTRUCTION.match(line)):
            continue
        kind, group, type_ = one["kind"], _group_size(one["rest"], devices), one["type"]
        if "async_collective_fusion_config" in one["rest"]:
            # Copies differ in layout. The channel alone doesn't identify one: all collectives of a
            # `shard_map` may have the same.
            marks = re.findall(r'channel_id=\d+|chain_id="\d+"', one["rest"])
            copy = (kind, tuple(_ARRAY.findall(type_)), tuple(marks))
            if copy in seen:
                continue
            seen.add(copy)
        started = _STARTED.match(_LAYOUT.sub("", type_)) if one["start"] else None
        if started and kind != "all-reduce":  # whose start has the type of its result
            type_ = started["result"]
        size = array_bytes(type_) * (group if kind == "reduce-scatter" else 1)
        if computation.startswith("all-reduce-scatter"):  # a fusion that keeps one share
            kind = "reduce-scatter"
        if group > 1:  # alone, a device has nobody to exchange with
            found.append(Collective(kind, size, group))
    return found


def array_bytes(type_: str) -> int:
    """The size of all arrays in a type such as `(f32[2,3]{1,0}, bf16[4])`."""
    total = 0
    for element, dimensions in _ARRAY.findall(type_):
        bits = re.search(r"\d+", element)
        width = int(bits[0]) if bits else 8 * (element == "pred")  # tokens have no size
        total += math.prod(map(int, re.findall(r"\d+", dimensions))) * width // 8
    return total


def _group_size(attributes: str, devices: int) -> int:
    """The size of the groups in `replica_groups`, in any of its forms; all devices by default.

    The forms are `{{0,1},{2,3}}`, `[2,2]<=[4]` (groups, size) and `mesh['a'=2,'b'=2] {'b'}`, where
    an axis may be a part of one: `'b':(1)2` has size 2. A permute has source_target_pairs.
    """
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", attributes):
        return len(set(re.findall(r"\d+", pairs[1])))
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", attributes):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        parts = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[name]) for name, part in parts)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed[1].split(","))
    return devices
