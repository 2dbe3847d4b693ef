"""Convolutions, dense layers and max pooling's gradient outside XLA, for JAX on one CPU.

Optional: the extra `cpu` (`pip install -c constraints.txt -e '.[cpu]'`) brings oneDNN, and the
system's C++ compiler builds a library from `onednn.cc`, once for each user and version. Where
either is missing, XLA does the work, with the same results but for rounding.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alexnet import layers as spec
from alexnet.errors import RunError, UserError
from alexnet.files import atomic_write
from alexnet.user_cache import own_folder
from alexnet_jax.conv import precision
from alexnet_jax.model import XLA, Work
from alexnet_jax.ops import relu_gradient

SWITCH = "ALEXNET_ONEDNN"  # when 0, XLA does the work
_SOURCE = Path(__file__).with_name("onednn.cc")
_LIBRARY, _HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"  # packages
_CONVOLUTION, _OF_INPUT, _OF_KERNEL, _PRODUCT, _OF_POOL = _FUNCTIONS = (
    "AlexNetConvolution",
    "AlexNetInputGradient",
    "AlexNetKernelGradient",
    "AlexNetProduct",
    "AlexNetPoolGradient",
)
_COMPILE_LIMIT = 120  # seconds; it takes about 6


def fastest(devices: Sequence[jax.Device]) -> Work:
    """The fastest functions for these devices: oneDNN's, if available, on one CPU device.

    XLA can't split a foreign function's work over several devices.
    """
    return ONEDNN if _is_one_cpu(devices) and missing() is None else XLA


def described(devices: Sequence[jax.Device]) -> str:
    """The library that runs the layers on one CPU, and why if not oneDNN; else empty."""
    if fastest(devices) is ONEDNN:
        return "layers by oneDNN"
    return f"layers by XLA ({missing()})" if _is_one_cpu(devices) else ""


def _is_one_cpu(devices: Sequence[jax.Device]) -> bool:
    return len(devices) == 1 and devices[0].platform == "cpu"


@functools.cache
def missing() -> str | None:
    """Load the library, building it if need be; return why that failed, or None."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    try:
        library = ctypes.CDLL(str(_library()))
        for name in _FUNCTIONS:
            function = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, function, platform="cpu")
    except metadata.PackageNotFoundError as error:
        return f"{error.name} is not installed"
    except (OSError, AttributeError, UserError, RunError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())
    return None


def _library() -> Path:
    """The library built from this source and these versions, in the user's cache.

    Its name holds a digest of what it was built from and one of its own bytes.
    """
    shared = _installed(_LIBRARY, "libdnnl.so.3")
    command = [
        *(os.environ.get("CXX", "c++"), "-O3", "-fno-trapping-math", "-fopenmp", "-std=c++17"),
        *("-shared", "-fPIC", str(_SOURCE)),
        *(f"-I{_installed(_HEADERS, 'dnnl_version.h').parents[2]}", f"-I{jax.ffi.include_dir()}"),
        *(str(shared), f"-Wl,-rpath,{shared.parent}"),
    ]
    versions = [metadata.version(name) for name in (_LIBRARY, _HEADERS, "jaxlib")]
    key = _digest(repr((command, versions, _SOURCE.read_bytes())).encode())
    folder = own_folder("onednn")
    for path in folder.glob(f"{key}-*.so"):
        if path.name == f"{key}-{_digest(path.read_bytes())}.so":
            return path
    made = _compile(command)
    with atomic_write(path := folder / f"{key}-{_digest(made)}.so") as file:
        file.write(made)
    return path


def _compile(command: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "library.so")
        done = subprocess.run(
            [*command, "-o", str(target)], capture_output=True, text=True, timeout=_COMPILE_LIMIT
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise OSError(f"{command[0]} can't compile {_SOURCE.name}: {' '.join(last)}")
        return target.read_bytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _installed(package: str, name: str) -> Path:
    """The most deeply nested file of that name in a package."""
    files = (Path(str(file.locate())) for file in metadata.files(package) or ())
    found = [file.resolve() for file in files if file.name == name]
    if not found:
        raise OSError(f"{package} has no {name}")
    return max(found, key=lambda path: len(path.parts))


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, layer: spec.Conv) -> jax.Array:
    """`alexnet_jax.conv.conv` by oneDNN, in fp32."""
    if x.dtype != jnp.float32:
        return XLA.conv(x, kernel, bias, layer)
    return _conv(x, kernel, bias, layer)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, layer: spec.Conv) -> jax.Array:
    reach = 2 * layer.padding - kernel.shape[0]
    rows, columns = ((n + reach) // layer.stride + 1 for n in x.shape[1:3])
    shape = (x.shape[0], rows, columns, kernel.shape[3])
    return _call(_CONVOLUTION, [shape], _geometry(layer), x, kernel, bias)[0]


def _conv_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array, layer: spec.Conv) -> tuple:
    return _conv(x, kernel, bias, layer), (x, kernel)


def _conv_backward(layer: spec.Conv, saved: tuple, grad: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel = saved
    (of_x,) = _call(_OF_INPUT, [x.shape], _geometry(layer), grad, kernel)
    shapes = [kernel.shape, kernel.shape[3:]]
    return of_x, *_call(_OF_KERNEL, shapes, _geometry(layer), x, grad)


_conv.defvjp(_conv_forward, _conv_backward)


def dense(name: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`alexnet_jax.ops.dense` by oneDNN, in fp32."""
    if x.dtype != jnp.float32:
        return XLA.dense(name, x, kernel, bias)
    return _matmul(x, kernel) + bias


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _product(x, kernel, (x.shape[0], kernel.shape[1]))


def _matmul_backward(saved: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # XLA for the kernel's: fc7's took it 38 ms, oneDNN 50; the input's, 14 and 12 ms (batch 32).
    of_kernel = jnp.matmul(x.T, grad, precision=precision(x))
    return _product(grad, kernel, x.shape, turned=True), of_kernel


_matmul.defvjp(lambda x, kernel: (_matmul(x, kernel), (x, kernel)), _matmul_backward)


def _product(
    first: jax.Array, second: jax.Array, shape: tuple[int, ...], turned: bool = False
) -> jax.Array:
    """Multiply two matrices, the second transposed if `turned`, to one of that shape."""
    return _call(_PRODUCT, [shape], {"turned": turned}, first, second)[0]


def max_pool(x: jax.Array, layer: spec.MaxPool, rectify: bool = False) -> jax.Array:
    """`alexnet_jax.ops.max_pool`, in fp32 with a gradient in one pass over the maps."""
    if x.dtype != jnp.float32:
        return XLA.max_pool(x, layer, rectify)
    return _max_pool(x, layer, rectify)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, layer: spec.MaxPool, rectify: bool) -> jax.Array:
    return XLA.max_pool(x, layer, rectify)


def _pool_forward(x: jax.Array, layer: spec.MaxPool, rectify: bool) -> tuple[jax.Array, tuple]:
    y = _max_pool(x, layer, rectify)
    return y, (x, y)


def _pool_backward(
    layer: spec.MaxPool, rectify: bool, saved: tuple, grad: jax.Array
) -> tuple[jax.Array]:
    x, y = saved
    if rectify:  # where y > 0, x equals y just where max(x, 0) does; elsewhere the gradient is 0
        grad = relu_gradient(y, grad)
    numbers = {"window": np.int64(layer.window), "stride": np.int64(layer.stride)}
    return (_call(_OF_POOL, [x.shape], numbers, x, y, grad)[0],)


_max_pool.defvjp(_pool_forward, _pool_backward)


def _geometry(layer: spec.Conv) -> dict[str, np.int64]:
    names = ("stride", "padding", "groups")
    return {name: np.int64(getattr(layer, name)) for name in names}


def _call(name: str, shapes: list, numbers: dict, *operands: jax.Array) -> list[jax.Array]:
    """Call one of the library's functions, which returns arrays of those shapes."""
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return list(jax.ffi.ffi_call(name, results)(*operands, **numbers))


ONEDNN = Work(conv, dense, max_pool)
