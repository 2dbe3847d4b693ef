"""`alexnet prepare`: a copy of a data set that training reads many times faster."""

import json as json_
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from alexnet.config import LARGEST_IMAGE
from alexnet.errors import UserError
from alexnet.files import as_path, at_home, is_remote
from alexnet.options import POSITIONAL, between, check_values, require

if TYPE_CHECKING:
    from pathlib import Path

    from alexnet.data.dataset import Dataset
    from alexnet.report.preparing import Preparing


@dataclass(frozen=True)
class Options:
    """A data set, and the format of its copy."""

    # digits, tfds:NAME, folder:PATH, cache:PATH or synthetic.
    source: str = field(metadata=POSITIONAL)
    # A new folder, or an unfinished one to complete; --dataset cache:TARGET reads it.
    target: str = field(metadata=POSITIONAL)
    # Height and width of the images: the short side is scaled to it, and the center is cropped.
    size: int = 256
    # raw is fastest and takes 197 kB per image of 256 pixels; jpeg takes about 20 kB.
    format: Literal["raw", "jpeg"] = "raw"
    # JPEG quality.
    quality: int = 90
    # Channels: 3 for RGB, 1 for gray.
    channels: int = 3
    # Resizing: scale the short side, or warp both sides.
    resize_rule: Literal["short", "warp"] = "short"
    # Processes that decode; by default one per CPU.
    workers: int | None = None
    # Verify the checksums of a finished copy, and replace damaged images.
    check: bool = False
    # Compute the training images' mean image, means, standard deviations and color axes.
    statistics: bool = False
    # For an image that can't be read: leave it out, or stop.
    on_bad_image: Literal["skip", "raise"] = "raise"
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Seed that splits a folder that isn't split on disk, as training's --seed does.
    seed: int = 0
    # Print JSON.
    json: bool = False

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 1, 2 * LARGEST_IMAGE, "size")
        between(self, 1, 100, "quality")
        between(self, 1, 1024, "workers")
        between(self, 0, 2**63 - 1, "seed")
        require(self.channels in (1, 3), "channels", self.channels, "1 or 3")
        if is_remote(self.target):
            raise UserError(
                f"{self.target} is a bucket: prepare in a local folder, then copy that with "
                "gcloud storage cp -r"
            )


def main(options: Options) -> int:
    """Make the copy, and print a summary of it."""
    from alexnet.data import cache_writer
    from alexnet.data.cache import SPLITS, Layout
    from alexnet.data.workers import cpus
    from alexnet.report.preparing import Preparing

    layout = Layout(
        options.format, options.size, options.channels, options.resize_rule, options.quality
    )
    folder = at_home(as_path(options.target))
    request = cache_writer.Request(
        options.source, folder, layout, options.data_dir, options.seed, options.on_bad_image
    )
    with Preparing() as observer:
        dataset = cache_writer.prepare(request, options.workers or cpus(), observer, options.check)
        found = _statistics(dataset, folder, observer) if options.statistics else {}
    report: dict[str, Any] = {"cache": f"cache:{folder}", "classes": dataset.num_classes}
    for split, source in zip(SPLITS, (dataset.train, dataset.eval), strict=True):
        report[split] = len(source)
    report["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
    if options.json:
        print(json_.dumps(report | found, indent=2))
        return 0
    print(
        f"{report['train']:,} training and {report['eval']:,} test examples, "
        f"{report['bytes'] / 1e6:,.1f} MB: --dataset {report['cache']}"
    )
    if found:
        words = [
            f"--{name} {' '.join(f'{x:.3f}' for x in found[name])}" for name in ("mean", "std")
        ]
        print(f"{' '.join(words)}; the mean image and the axes of colors: {found['statistics']}")
    return 0


def _statistics(dataset: "Dataset", folder: "Path", observer: "Preparing") -> dict[str, Any]:
    """Write `statistics.npz` into the cache; return its content without the mean image."""
    import numpy as np

    from alexnet.data.mean_image import STATISTICS
    from alexnet.data.statistics import statistics
    from alexnet.files import atomic_write

    total = len(dataset.train)
    found = statistics(dataset.train, lambda done: observer.progress("adding up", done, total))
    path = folder / STATISTICS
    with atomic_write(path) as file:
        np.savez(file, **vars(found))
    return {"statistics": str(path), **found.to_json()}
