"""`alexnet summary`: a network's layers."""

import json
from dataclasses import dataclass

from alexnet.config import LARGEST_IMAGE, MOST_CLASSES, Framework, VariantName
from alexnet.errors import choose
from alexnet.layers import Spec
from alexnet.options import between, check_values, require
from alexnet.spec import VARIANTS, variant


@dataclass(frozen=True)
class Options:
    """The network, and how to print it."""

    # Which AlexNet.
    variant: VariantName = "torchvision"
    # Two variants to compare side by side instead: --compare paper caffe.
    compare: tuple[VariantName, VariantName] | None = None
    # Framework whose model is measured; torch prints in the style of torchinfo.
    framework: Framework = "jax"
    # Outputs of the last layer.
    num_classes: int = 1000
    # 3 for RGB, 1 for gray.
    channels: int = 3
    # Height and width of the input; by default the variant's own.
    image_size: int | None = None
    # Fraction of each hidden layer's features to keep.
    width: float = 1.0
    # Print JSON instead of a table.
    json: bool = False

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        for name in self.compare or ():
            choose("variant", name, VARIANTS)
        between(self, 1, MOST_CLASSES, "num_classes", "channels")
        between(self, 1, LARGEST_IMAGE, "image_size")
        require(0 < self.width <= 1, "width", self.width, "above 0 and at most 1")


def main(options: Options) -> int:
    """Print the layers, or the differences between two variants."""
    if options.compare:
        one, other = (_spec(options, name) for name in options.compare)
        return _compare(one, other, options.json)
    spec = _spec(options, options.variant)
    from alexnet.engine import import_framework
    from alexnet.report.summary import print_table, summary_json, summary_rows

    native = import_framework(options.framework, "inspection")
    if not options.json and native.print_native(spec):
        return 0
    whole = summary_json(spec, summary_rows(spec, native.output_shapes(spec)), options.framework)
    if options.json:
        print(json.dumps(whole, indent=2))
    else:
        print_table(whole)
    return 0


def _spec(options: Options, name: str) -> Spec:
    return variant(
        name,
        num_classes=options.num_classes,
        channels=options.channels,
        image_size=options.image_size,
        width=options.width,
    )


def _compare(one: Spec, other: Spec, as_json: bool) -> int:
    from alexnet.report.compare import comparison, print_comparison

    found = comparison(one, other)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_comparison(found)
    return 0
