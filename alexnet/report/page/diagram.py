"""The network as a figure: boxes scaled to feature maps, towers drawn as two."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    MaxPool,
    Row,
    SpatialLRN,
    Spec,
    trace,
)
from alexnet.report.page.filters import towers
from alexnet.report.page.html import Html, clean, joined, scrolled, sides, table, tag
from alexnet.weights.core import show

WIDTH, TOP, HEIGHT = 118, 34, 220  # of a column; where boxes begin, and the space they have
_KINDS = {"lrn": "LRN", "avgpool": "avg pool"}


@dataclass
class Stage:
    """A layer with weights, and the layers without weights that follow it."""

    name: str
    shape: tuple[int, ...]  # of the output, (H, W, C) or (features,)
    row: Row | None = None  # None for the input
    after: list[str] = field(default_factory=list)
    towers: int = 1
    crosses: bool = False  # takes the features of all towers


def stages(spec: Spec) -> list[Stage]:
    """The columns of the figure: the input, then each convolution and dense layer."""
    found = [Stage("input", (spec.image_size, spec.image_size, spec.channels))]
    for row in trace(spec):
        if isinstance(row.layer, Conv | Dense):
            is_conv = isinstance(row.layer, Conv)
            own = towers(spec, row.name) if is_conv else 1
            groups = row.layer.groups if isinstance(row.layer, Conv) else 1
            stage = Stage(row.name, row.out_shape, row, [], own, groups == 1)
            found.append(stage)
        elif words := _after(row):
            found[-1].after.append(words)
    return found


def _after(row: Row) -> str:
    """A layer without weights, in the few words that fit below a box."""
    match row.layer:
        case MaxPool(window, stride):
            return f"pool {window}/{stride} → {row.out_shape[0]}"
        case AvgPool(window, stride):
            return f"avg {window}/{stride} → {row.out_shape[0]}"
        case AdaptiveAvgPool(size):
            return f"avg pool → {size}"
        case LRN() | BatchNorm():
            return "LRN" if isinstance(row.layer, LRN) else "batch norm"
        case SpatialLRN():
            return "LRN in maps"
        case _:
            return ""


def section(spec: Spec) -> Html:
    """The figure, and the table of all layers with their numbers."""
    rows = trace(spec)
    total, adds = spec.num_params, sum(row.multiply_adds for row in rows)
    dense = [row for row in rows if isinstance(row.layer, Dense)]
    share = 100 * sum(row.params for row in dense) / max(total, 1)
    work = 100 * (1 - sum(row.multiply_adds for row in dense) / max(adds, 1))
    about = (
        f"{total:,} parameters, {share:.0f} % of them in the dense layers; {adds:,} multiply-adds "
        f"an image, {work:.0f} % of them in the convolutions."
    )
    lines = [
        (row.name, show(row.out_shape), f"{row.params:,}", f"{row.multiply_adds:,}") for row in rows
    ]
    head = ("layer", "output", "parameters", "multiply-adds")
    whole = table(f"Layers of {clean(spec.name)}", head, lines, class_="numbers")
    return joined(
        tag("p", about),
        scrolled("The network's figure", figure(spec)),
        tag("details", tag("summary", "All layers as a table"), scrolled("Layers", whole)),
    )


def figure(spec: Spec) -> Html:
    """The SVG."""
    columns = stages(spec)
    total = max(spec.num_params, 1)
    adds = max(sum(row.multiply_adds for row in trace(spec)), 1)
    parts: list[Html] = []
    for place, stage in enumerate(columns):
        x = place * WIDTH + 10
        if place:
            parts += _links(x, stage, columns[place - 1])
    for place, stage in enumerate(columns):
        x = place * WIDTH + 10
        for top, height in _fronts(stage, spec):
            parts.append(_cuboid(x, top, _thickness(stage), height, stage))
        parts += _labels(x, stage)
        if stage.row:
            parts += _bars(x, stage.row.params / total, stage.row.multiply_adds / adds)
    width, height = len(columns) * WIDTH + 10, TOP + HEIGHT + 158
    described = ", ".join(f"{stage.name} {show(stage.shape)}" for stage in columns)
    return tag(
        "svg",
        tag("title", f"Layers from left to right: {described}"),
        parts,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        class_="diagram",
    )


def _thickness(stage: Stage) -> float:
    """A box's thickness, growing with the features of one tower."""
    return 6 + 3.2 * math.log2(stage.shape[-1] / stage.towers + 1)


def _fronts(stage: Stage, spec: Spec) -> Iterator[tuple[float, float]]:
    """Top and height of each tower's front."""
    room = HEIGHT / stage.towers - 12 * (stage.towers - 1)
    if len(stage.shape) == 3:
        share = 0.22 + 0.6 * math.sqrt(stage.shape[0] / spec.image_size)
    else:
        share = 0.3 + 0.06 * math.log2(stage.shape[0] + 1)
    height = room * min(share, 1.0)
    for tower in range(stage.towers):
        middle = TOP + HEIGHT * (tower + 0.5) / stage.towers
        yield middle - height / 2 + (8 if len(stage.shape) == 3 else 0), height


def _cuboid(x: float, top: float, thick: float, height: float, stage: Stage) -> Html:
    """A box; vectors have no depth."""
    kind = "map" if len(stage.shape) == 3 else "vector"
    front = tag("rect", x=x, y=top, width=thick, height=height, class_="front")
    if kind == "vector":
        return tag("g", front, class_=f"box {kind}")
    deep, up = 0.22 * height, 0.16 * height
    right, bottom = x + thick, top + height
    lid = f"M{x:.1f} {top:.1f}l{deep:.1f} {-up:.1f}h{thick:.1f}L{right:.1f} {top:.1f}z"
    side = f"M{right:.1f} {top:.1f}l{deep:.1f} {-up:.1f}v{height:.1f}L{right:.1f} {bottom:.1f}z"
    return tag(
        "g",
        tag("path", d=lid, class_="lid"),
        tag("path", d=side, class_="side"),
        front,
        class_=f"box {'input' if stage.row is None else kind}",
    )


def _links(x: float, stage: Stage, before: Stage) -> Iterator[Html]:
    """Lines from the towers before to those of a stage; between towers only where they meet."""
    start = x - WIDTH + _thickness(before) + 22
    for a in range(before.towers):
        for b in range(stage.towers):
            straight = a == b or before.towers != stage.towers
            if not straight and not stage.crosses:
                continue
            y1, y2 = (
                TOP + HEIGHT * (t + 0.5) / n for t, n in ((a, before.towers), (b, stage.towers))
            )
            yield tag("line", x1=start, y1=y1, x2=x - 3, y2=y2, class_="link")


def _labels(x: float, stage: Stage) -> Iterator[Html]:
    lines = [(clean(stage.name, 12), "name")]
    if stage.row and isinstance(layer := stage.row.layer, Conv):
        stride = f", stride {layer.stride}" if layer.stride > 1 else ""
        lines.append((f"{sides(layer.kernel, layer.kernel)}{stride}", ""))
    elif stage.row:
        lines.append(("dense", ""))
    else:
        lines.append(("pixels", ""))
    lines.append((sides(*stage.shape), "size"))
    if stage.towers > 1:
        lines.append((f"= {sides(stage.towers, stage.shape[-1] // stage.towers)}", ""))
    lines += [(words, "faint") for words in stage.after]
    for place, (words, kind) in enumerate(lines):
        y = TOP + HEIGHT + 22 + 15 * place
        yield tag("text", words, x=x, y=y, class_=kind or None)


def _bars(x: float, params: float, adds: float) -> Iterator[Html]:
    """Shares of the whole network's parameters and multiply-adds."""
    for place, (share, kind, words) in enumerate(
        ((params, "params", "params"), (adds, "adds", "mult."))
    ):
        y = TOP + HEIGHT + 118 + 16 * place
        yield tag("rect", x=x, y=y, width=40, height=8, class_="bar-back")
        yield tag("rect", x=x, y=y, width=max(40 * share, 0.5), height=8, class_=f"bar {kind}")
        yield tag("text", f"{100 * share:.0f} % {words}", x=x + 44, y=y + 8, class_="tiny")
