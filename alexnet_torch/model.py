"""AlexNet in PyTorch: walks a table of layers."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from alexnet.init import initial_weights
from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    Row,
    SpatialLRN,
    Spec,
    Tanh,
    check_input,
    trace,
)
from alexnet.threefry import Key
from alexnet.weights import check, layout
from alexnet_torch import lrn, ops

if TYPE_CHECKING:
    from alexnet.preprocess import Preprocess
    from alexnet.weights import Weights


class AlexNet(nn.Module):
    """Any variant of AlexNet; its state dict has `conv1.weight` ... `fc8.bias` in torch layout.

    Args:
        spec: the network.
        seed: of the initial weights.
        weights: canonical arrays to use instead of initial ones.
        dtype: arithmetic of convolutions and dense layers; weights stay fp32.

    Models loaded from files carry `preprocess` and `class_names`; in others both are None.
    """

    preprocess: "Preprocess | None" = None
    class_names: tuple[str, ...] | None = None

    def __init__(
        self,
        spec: Spec,
        *,
        seed: int = 0,
        weights: Mapping[str, np.ndarray] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.spec, self.dtype = spec, dtype
        for row in trace(spec):
            self.add_module(row.name, _module(row))
        self.load_weights(initial_weights(spec, seed) if weights is None else weights)

    @classmethod
    def from_weights(
        cls, path: Path | str, *, dtype: torch.dtype = torch.float32, **options: Any
    ) -> "AlexNet":
        """The network in a weights file; `options` go to `alexnet.weights.load`."""
        from alexnet.weights import load  # not for training, which reads no file

        return cls._loaded(load(path, **options), dtype)

    @classmethod
    def from_pretrained(
        cls, source: Path | str, *, dtype: torch.dtype = torch.float32, **options: Any
    ) -> "AlexNet":
        """The network in a Hugging Face folder, hf://ORG/NAME@REVISION, a run or a weights file.

        `options` go to `alexnet.trained.open_weights`.
        """
        from alexnet.trained import open_weights

        return cls._loaded(open_weights(source, **options), dtype)

    @classmethod
    def _loaded(cls, loaded: "Weights", dtype: torch.dtype) -> "AlexNet":
        model = cls(loaded.spec, weights=loaded.arrays, dtype=dtype)
        model.preprocess, model.class_names = loaded.preprocess, loaded.class_names
        return model

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set this network's weights from canonical arrays.

        Raises:
            UserError: where they are not this network's.
        """
        check(weights, self.spec)
        state = layout.to_state_dict(weights, self.spec)
        self.load_state_dict({key: from_numpy(array) for key, array in state.items()})

    def named_variables(self) -> dict[str, torch.Tensor]:
        """Parameters and statistics, not copies, by canonical name, in torch's layout."""
        state = self.state_dict(keep_vars=True)
        return {name: state[key] for name, key in layout.torch_keys(self.spec).items()}

    def weights(self) -> dict[str, np.ndarray]:
        """This network's weights as canonical fp32 arrays, which later steps don't change."""
        state = {key: t.detach().float().cpu().numpy() for key, t in self.state_dict().items()}
        keys, arrays = layout.torch_keys(self.spec), layout.from_state_dict(state, self.spec)
        shared = {n for n in arrays if np.may_share_memory(arrays[n], state[keys[n]])}
        return {n: array.copy("K") if n in shared else array for n, array in arrays.items()}

    def forward(
        self,
        images: torch.Tensor,
        *,
        keys: Sequence[Key] | None = None,
        first_row: int = 0,
        mask: torch.Tensor | None = None,
        processes: int = 1,
    ) -> torch.Tensor:
        """Logits (batch, classes), in fp32, for normalized NCHW images.

        Args:
            images: (batch, channels, height, width) floats.
            keys: one for each dropout layer, used in training; by default drawn at random.
            first_row: the first row's position in the global batch.
            mask: (batch,), 0 for rows that batch statistics leave out.
            processes: number of processes that share the global batch.
        """
        x = images
        in_place = not (torch.jit.is_tracing() or torch.compiler.is_exporting() or self._hooked())
        for _, x in self._walk(images, keys, first_row, mask, processes, in_place):  # noqa: B007
            pass
        return x.float()

    def activations(
        self, images: torch.Tensor, *, keys: Sequence[Key] | None = None
    ) -> dict[str, torch.Tensor]:
        """Every layer's output, by its name in `layers.trace`; the last one is the logits."""
        return dict(self._walk(images, keys, 0, None, 1))

    def _walk(
        self,
        x: torch.Tensor,
        keys: Sequence[Key] | None,
        first_row: int,
        mask: torch.Tensor | None,
        processes: int,
        in_place: bool = False,  # outputs of convolutions and dense layers may be written over
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):  # sizes may be symbols
            check_input(self.spec, tuple(x.shape), "NCHW", str(x.dtype))
        left = iter(keys) if keys is not None else None
        before = None
        for name, module in self.named_children():
            with self._precision(x.device.type):
                if isinstance(module, ops.Dropout) and self.training:
                    x = module(x, next(left) if left else None, first_row)
                elif isinstance(module, ops.BatchNorm):
                    x = module(x, mask, processes)
                elif in_place and isinstance(module, nn.ReLU) and before in _NOT_NEEDED:
                    x = functional.relu(x, inplace=True)
                else:
                    x = module(x)
            before = type(module)
            yield name, x

    def _precision(self, device: str) -> contextlib.AbstractContextManager[Any]:
        """The arithmetic of `dtype`; for fp32 the caller's, which may be under an autocast."""
        low = self.dtype != torch.float32
        return torch.autocast(device, self.dtype) if low else contextlib.nullcontext()

    def _hooked(self) -> bool:
        """Check for hooks; with any, every layer is called and its output is left alone."""
        return _has_any_global_hook() or any(
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or layer._backward_pre_hooks
            for layer in self.children()
        )


# Layers whose output no gradient needs, so that a ReLU may write over it.
_NOT_NEEDED = (nn.Conv2d, ops.CeilConv2d, nn.Linear)


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor, copied only if read-only, since torch has no read-only memory."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _module(row: Row) -> nn.Module:
    """The torch module for one row; its weights are set afterwards."""
    match layer := row.layer:
        case Conv():
            return nn.utils.skip_init(
                ops.CeilConv2d if layer.ceil else nn.Conv2d,
                row.in_shape[2],
                layer.features,
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
            )
        case Dense():
            return nn.utils.skip_init(nn.Linear, row.in_shape[0], row.out_shape[0])
        case ReLU():
            return nn.ReLU()
        case Tanh():
            return nn.Tanh()
        case LRN():
            return lrn.LRN(layer)
        case SpatialLRN():
            return lrn.SpatialLRN(layer)
        case BatchNorm():
            return ops.BatchNorm(layer, row.in_shape[-1])
        case MaxPool():
            return nn.MaxPool2d(layer.window, layer.stride, ceil_mode=layer.ceil)
        case AvgPool():
            return nn.AvgPool2d(
                layer.window, layer.stride, ceil_mode=layer.ceil, count_include_pad=False
            )
        case AdaptiveAvgPool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case Flatten():
            return nn.Flatten()
        case Dropout():
            shape = row.in_shape if len(row.in_shape) == 3 else row.map_shape
            return ops.Dropout(layer, cast(ops.MapShape | None, shape))
    raise ValueError(f"no module for {layer}")
