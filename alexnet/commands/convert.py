"""`alexnet convert`: weights between files, and runs between frameworks."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet import hub, porting, weights
from alexnet.config import LARGEST_IMAGE, VariantName
from alexnet.errors import UserError
from alexnet.files import as_path
from alexnet.options import POSITIONAL, between, check_values
from alexnet.preparation import PreparationConfig
from alexnet.preprocess import to_json
from alexnet.text import printable
from alexnet.weights import FORMATS, Weights

WORDS = {"from_": tuple(FORMATS), "to": (*FORMATS, porting.FOLDER, "jax", "torch")}


@dataclass(frozen=True)
class Options:
    """Source, target and kind of a conversion."""

    # A weights file, a Hugging Face folder, hf://ORG/NAME@REVISION, a run's work directory, or one
    # of its checkpoints.
    source: str = field(metadata=POSITIONAL)
    # A weights file, a directory for --to hf-folder, or, for a run, a new work directory.
    target: str = field(metadata=POSITIONAL)
    # Format of the source; by default detected from its content.
    from_: str | None = None
    # Format of the target; by default inferred from its name. jax and torch are for a run.
    to: str | None = None
    # Checkpoint of a run to convert; by default the last.
    step: int | None = None
    # The network, for files that don't say.
    variant: VariantName | None = None
    # Height and width of its input, for files that don't say.
    image_size: int | None = None
    # Variant to convert to, if that can be done exactly.
    to_variant: VariantName | None = None
    # Fold mean and scale into conv1, so that the network takes torchvision's input.
    fold: bool = False
    # Number format in the target; fp16 and bf16 round the weights.
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    # Replace files that are already in a Hugging Face folder.
    overwrite: bool = False
    # Run both frameworks on photographs and compare source and result.
    verify: bool = False
    # Folder of photographs for --verify; by default two that come with scikit-learn.
    images: str | None = None
    # Print JSON.
    json: bool = False
    preparation: PreparationConfig = field(default_factory=PreparationConfig)

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 1, LARGEST_IMAGE, "image_size")
        between(self, 0, None, "step")
        if self.overwrite and self.to != porting.FOLDER:
            raise UserError("--overwrite is for --to hf-folder: add that, or leave it out")
        if self.images is not None and not self.verify:
            raise UserError("--images is for --verify: add --verify, or leave it out")


def main(options: Options) -> int:
    """Convert, and print what was done; return 1 if --verify finds a difference."""
    from rich.console import Console
    from rich.text import Text

    if options.verify:
        from alexnet.verify import check

        check(options.images)  # before anything is written
    text = Text(f"converting {printable(options.source)}")  # in Text, [markup] is not interpreted
    with Console(stderr=True).status(text):  # on a terminal only
        change = porting.Change(
            options.to_variant, options.fold, options.preparation or None, options.dtype
        )
        whole, lines = porting.convert(
            options.source,
            as_path(options.target),
            source_format=options.from_,
            target_format=options.to,
            step=options.step,
            variant=options.variant,
            image_size=options.image_size,
            change=change,
            overwrite=options.overwrite,
        )
    report: dict[str, Any] = {
        "done": lines[0],
        "notes": lines[1:],
        "preprocess": to_json(whole.preprocess),
        "preprocess_from": whole.preprocess_from,
        "class_names": len(whole.class_names or ()),
    }
    if not options.json:
        print("\n".join(map(printable, lines)))
    if options.verify:
        report["verify"] = _verify(whole, options)
    if options.json:
        print(json.dumps(report, indent=2))
    return 0 if not options.verify or report["verify"]["passed"] else 1


def _verify(whole: Weights, options: Options) -> dict[str, Any]:
    """Compare a conversion's result, read back, with its source."""
    from alexnet.report.verify import print_verification
    from alexnet.verify import verify
    from alexnet.weights.precision import rounded

    target, spec = as_path(options.target), whole.spec
    if hub.is_folder(target):
        back = hub.read_folder(target)
    elif porting.is_run(target):
        back = porting.run_weights(porting.read_run(target), target)
    else:
        back = weights.load(target, variant=spec.name, image_size=spec.image_size)
    result = verify(rounded(whole, options.dtype), back, options.images)
    if not options.json:
        print_verification(result)
    return result
