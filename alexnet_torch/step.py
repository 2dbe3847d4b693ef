"""The training and evaluation steps, which update the model and the optimizer in place."""

import contextlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from alexnet.engine import METRICS
from alexnet.preprocess import Normalize
from alexnet.threefry import Key
from alexnet_torch.model import AlexNet
from alexnet_torch.optim import Momentum

Batch = dict[str, torch.Tensor]
Metrics = dict[str, torch.Tensor]


def train_step(
    model: nn.Module,
    optimizer: Momentum,
    batch: Batch,
    rates: Mapping[str, float],
    dropout_keys: Sequence[Key],
    *,
    normalization: Normalize,
    image_size: int,
    label_smoothing: float = 0.0,
    parts: int = 1,
    first_row: int = 0,
    processes: int = 1,
) -> Metrics:
    """Make one update, in place.

    Args:
        model, optimizer: weights and momentum; with several processes, the model is an AlexNet in
            a `DistributedDataParallel`.
        batch: `image` (B, H, W, C) uint8, `label` (B,) int32, `mask` (B,) float32; with color
            noise, `color_shift` (B, C) and perhaps `color_scale` (B,) float32; where images are
            cropped here, `crop` (B, 2) int32 and `flip` (B,) uint8; with several processes, this
            one's rows.
        rates: of this step, for each learned variable.
        dropout_keys: one for each dropout layer.
        normalization: mean and standard deviation of the input.
        image_size: height and width of the input.
        label_smoothing: share of the target spread evenly over all classes.
        parts: number of parts to compute the batch in, one after another, adding up their
            gradients: the same but for rounding, and for batch normalization, which then sees one
            part as its batch.
        first_row: the position of the batch's first row in the global batch.
        processes: number of processes that share the global batch.

    Returns:
        `loss`, `top1`, `top5`: means over the global batch, still on the device.
    """
    model.train()
    count = _sum({"count": batch["mask"].sum()}, processes)["count"].clamp(min=1.0)
    optimizer.zero_grad(set_to_none=True)
    rows, sums = len(batch["mask"]) // parts, dict.fromkeys(METRICS, count.new_zeros(()))
    for start in range(0, rows * parts, rows):
        part = {name: tensor[start : start + rows] for name, tensor in batch.items()}
        # The processes' gradients are added up once, with the last part's.
        last = start + rows == rows * parts
        with contextlib.nullcontext() if last or processes == 1 else model.no_sync():  # type: ignore[operator]
            logits = model(
                normalize(part, normalization, image_size),
                keys=dropout_keys,
                first_row=first_row + start,
                mask=part["mask"],
                processes=processes,
            )
            losses = cross_entropy(logits, part["label"], label_smoothing)
            loss = (losses * part["mask"]).sum() / count
            (loss * processes).backward()  # DistributedDataParallel takes the mean over processes
        found = {"loss": loss.detach(), **_hits(logits.detach(), part)}
        sums = {n: sums[n] + (found[n] if n == "loss" else found[n] / count) for n in METRICS}
    optimizer.set_rates(rates)
    optimizer.step()
    return _sum(sums, processes)


@torch.no_grad()
def eval_step(
    model: AlexNet,
    batch: Batch,
    *,
    normalization: Normalize,
    image_size: int,
    processes: int = 1,
) -> tuple[Metrics, torch.Tensor]:
    """Evaluate a batch; the arguments are those of `train_step`.

    Returns:
        Sums over the global batch, so that batches add up, of `loss`, `top1`, `top5` and `count`;
        and the logits (B, classes) of the rows given.
    """
    logits = model.eval()(normalize(batch, normalization, image_size))
    losses = cross_entropy(logits, batch["label"], 0.0)
    sums = {"loss": (losses * batch["mask"]).sum(), "count": batch["mask"].sum()}
    return _sum(sums | _hits(logits, batch), processes), logits


def _sum(values: Metrics, processes: int) -> Metrics:
    """The sums over processes."""
    if processes == 1:
        return values
    stacked = torch.stack(list(values.values()))
    dist.all_reduce(stacked)
    return dict(zip(values, stacked, strict=True))


def views(batch: Batch, size: int) -> torch.Tensor:
    """The images (B, size, size, C) uint8: as they are, or cut out by `crop` and `flip`."""
    images = batch["image"]
    if "crop" not in batch:
        return images
    count, height, width, channels = images.shape
    rows = torch.arange(count, device=images.device)[:, None] * height + batch["crop"][:, :1]
    rows = rows + torch.arange(size, device=images.device)
    first = (rows * width + batch["crop"][:, 1:]).flatten()  # first pixel of each row cut out
    windows = images.reshape(-1).unfold(0, size * channels, channels)  # a row's length, anywhere
    cut = windows.index_select(0, first).view(count, size, size, channels)
    return torch.where(batch["flip"].bool()[:, None, None, None], cut.flip(2), cut)


def normalize(batch: Batch, normalization: Normalize, image_size: int) -> torch.Tensor:
    """(pixel + color shift - mean) / std of the views in fp32, times the color scale.

    The result is an NCHW view of NHWC memory.
    """
    images = views(batch, image_size).float()
    if "color_shift" in batch:
        images = images + batch["color_shift"][:, None, None, :]
    mean = torch.tensor(normalization.subtracted, device=images.device)
    scale = (1 / torch.tensor(normalization.std, dtype=torch.float64)).float().to(images.device)
    images = (images - mean) * scale
    if "color_scale" in batch:
        images = images * batch["color_scale"][:, None, None, None]
    return images.permute(0, 3, 1, 2)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Loss of each example; the target has `smoothing` spread evenly over all classes."""
    return functional.cross_entropy(
        logits, labels.long(), reduction="none", label_smoothing=smoothing
    )


def _hits(logits: torch.Tensor, batch: Batch) -> Metrics:
    """Counts of examples whose label is among the highest 1 and 5 logits.

    Among equal logits, the lower class number ranks higher, so that a network whose logits are
    all equal does not score.
    """
    labels = batch["label"].long()[:, None]
    own = logits.gather(1, labels)
    before = torch.arange(logits.shape[1], device=logits.device)[None, :] < labels
    rank = ((logits > own) | ((logits == own) & before)).sum(dim=1)
    return {f"top{k}": ((rank < k) * batch["mask"]).sum() for k in (1, 5)}
