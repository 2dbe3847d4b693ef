"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

# One instruction: its type, its kind, and whether it is the first half of an asynchronous one.
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>\([^\"]*?\)|[^\s\"]+) "
    rf"(?:ragged-)?(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")


@dataclass(frozen=True)
class Collective:
    """One exchange between the devices of a group.

    Attributes:
        kind: one of `KINDS`.
        bytes: of the whole arrays on one device: what comes out of it, or, of a reduce-scatter,
            what goes in.
        group_size: how many devices exchange with one another.
    """

    kind: str
    bytes: int
    group_size: int

    @property
    def sent(self) -> float:
        """The fewest bytes that each device has to send, whatever the algorithm.

        All-reduce 2 (n - 1)/n of its bytes, the others (n - 1)/n (Thakur, Rabenseifner and Gropp
        2005, section 4); a permute or broadcast hands on all of them.
        """
        if self.group_size == 1:
            return 0
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * self.bytes * (self.group_size - 1) / self.group_size


def collectives(hlo_text: str) -> list[Collective]:
    """The collectives of a compiled program, in the text's order, each counted once.

    The second half of an asynchronous pair counts nothing. Compilers for TPU also spread one
    collective over several fusions, each with a copy of the instruction. A collective in a loop's
    body counts once, however often the loop runs.

    Args:
        hlo_text: what `compiled.as_text()` gives.
    """
    found, seen, devices = [], set(), _devices(hlo_text)
    for computation, instruction in _instructions(hlo_text):
        if (one := _spread(instruction)) in seen:
            continue
        if one:
            seen.add(one)
        kind, group = instruction["kind"], _group_size(instruction["rest"], devices)
        size = _bytes(_result_type(instruction))
        if kind == "reduce-scatter":
            size *= group
        elif computation.startswith("all-reduce-scatter"):  # a fusion that keeps one share
            kind = "reduce-scatter"
        if group > 1:  # alone, a device has nobody to exchange with
            found.append(Collective(kind, size, group))
    return found


def _instructions(hlo_text: str) -> Iterator[tuple[str, re.Match]]:
    """Every instruction that starts a collective, with the name of the computation it is in."""
    computation = ""
    for line in hlo_text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header["name"]
        elif instruction := _INSTRUCTION.match(line):
            yield computation, instruction


def _spread(instruction: re.Match) -> tuple | None:
    """What the copies of an instruction that is spread over fusions share; None if it is not.

    Copies differ in layout. The channel alone is no sign of one: all collectives that a
    `shard_map` asks for may have the same.
    """
    rest = instruction["rest"]
    if "async_collective_fusion_config" not in rest:
        return None
    channel, chain = _CHANNEL.search(rest), re.search(r'chain_id="(\d+)"', rest)
    arrays = tuple(_ARRAY.findall(instruction["type"]))
    return instruction["kind"], arrays, channel and channel[1], chain and chain[1]


def _devices(hlo_text: str) -> int:
    """How many devices the program runs on, from its first line."""
    header = hlo_text.split("\n", 1)[0]
    counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", header)
    return math.prod(map(int, counts))


def _result_type(instruction: re.Match) -> str:
    """The type of what comes out; a start's is (inputs, results, ...), but for all-reduce."""
    type_ = instruction["type"]
    if not instruction["start"] or instruction["kind"] == "all-reduce":
        return type_
    depth, elements = 0, [""]
    for character in type_[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return elements[1]


def _bytes(type_: str) -> int:
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
