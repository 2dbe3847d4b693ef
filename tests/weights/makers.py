"""Files as other programs write them, made by means other than the package's own."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import onnx
import scipy.io
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto, helper, numpy_helper

from alexnet.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    trace,
)
from alexnet.weights import Weights

from .helpers import caffe_layout, learned

# --- Caffe, by the protobuf package from the field numbers of caffe.proto --------------------

_MESSAGES = {
    "BlobShape": [("dim", 1, "int64", "packed")],
    "BlobProto": [
        ("num", 1, "int32", ""), ("channels", 2, "int32", ""), ("height", 3, "int32", ""),
        ("width", 4, "int32", ""), ("data", 5, "float", "packed"), ("shape", 7, "BlobShape", ""),
    ],
    "Convolution": [
        ("num_output", 1, "uint32", ""), ("pad", 3, "uint32", "repeated"),
        ("kernel_size", 4, "uint32", "repeated"), ("group", 5, "uint32", ""),
        ("stride", 6, "uint32", "repeated"),
    ],
    "Pooling": [("pool", 1, "uint32", ""), ("kernel_size", 2, "uint32", ""),
                ("stride", 3, "uint32", "")],
    "Lrn": [("local_size", 1, "uint32", ""), ("alpha", 2, "float", ""), ("beta", 3, "float", ""),
            ("norm_region", 4, "uint32", ""), ("k", 5, "float", "")],
    "Dense": [("num_output", 1, "uint32", "")],
    "Transform": [("scale", 1, "float", ""), ("mirror", 2, "bool", ""),
                  ("crop_size", 3, "uint32", ""), ("mean_file", 4, "string", ""),
                  ("mean_value", 5, "float", "repeated")],
    "V1": [
        ("bottom", 2, "string", "repeated"), ("top", 3, "string", "repeated"),
        ("name", 4, "string", ""), ("type", 5, "uint32", ""), ("blobs", 6, "BlobProto", "repeated"),
        ("convolution", 10, "Convolution", ""), ("dense", 17, "Dense", ""), ("lrn", 18, "Lrn", ""),
        ("pooling", 19, "Pooling", ""), ("transform", 36, "Transform", ""),
    ],
    "V2": [
        ("name", 1, "string", ""), ("type", 2, "string", ""), ("bottom", 3, "string", "repeated"),
        ("top", 4, "string", "repeated"), ("blobs", 7, "BlobProto", "repeated"),
        ("transform", 100, "Transform", ""), ("convolution", 106, "Convolution", ""),
        ("dense", 117, "Dense", ""), ("lrn", 118, "Lrn", ""), ("pooling", 121, "Pooling", ""),
    ],
    "Mean": [("blob", 1, "BlobProto", "")],
    "Net": [("name", 1, "string", ""), ("layers", 2, "V1", "repeated"),
            ("layer", 100, "V2", "repeated")],
}  # fmt: skip
_V1_CODES = {"Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15,
             "Pooling": 17, "ReLU": 18, "SoftmaxWithLoss": 21}  # fmt: skip


def binaryproto(image: np.ndarray) -> bytes:
    """Caffe's file of a mean image, [H, W, 3] in R, G, B order."""
    planes = image[:, :, ::-1].transpose(2, 0, 1)
    blob = _caffe_types("Mean")().blob
    blob.num, blob.channels, blob.height, blob.width = 1, *planes.shape
    blob.data.extend(planes.ravel().tolist())
    return blob.SerializeToString()


MEAN_IMAGES = ("cache", "npy", "npy by columns", "npy of Caffe", "binaryproto", "npz")


def mean_image(kind: str, folder: Path, image: np.ndarray) -> Path:
    """The path of a mean image in a file of a kind."""
    if kind == "cache":
        np.savez(folder / "statistics.npz", mean_image=image.astype("f8"), mean=image.mean((0, 1)))
        return folder
    path = folder / f"mean.{kind.split(' ')[0]}"
    match kind:
        case "npy":
            np.save(path, image)
        case "npy by columns":
            np.save(path, np.asfortranarray(image))
        case "npy of Caffe":
            np.save(path, image[:, :, ::-1].transpose(2, 0, 1).astype("f8"))
        case "binaryproto":
            path.write_bytes(binaryproto(image))
        case "npz":
            np.savez_compressed(path, mean_image=image)
    return path


def _caffe_types(wanted: str = "Net"):
    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, mode in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = kinds.LABEL_REPEATED if mode else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, kind
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            field.options.packed = mode == "packed"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(wanted))


def caffemodel(weights: Weights, version: int = 2, mean_file: str = "", edit=None) -> bytes:
    """A .caffemodel of V1 or V2 layers; `edit(net, layers)` may change it first."""
    net = _caffe_types()(name="AlexNet")
    layers = net.layers if version == 1 else net.layer
    blobs = caffe_layout(weights)

    def add(name, kind):
        return layers.add(name=name, type=_V1_CODES[kind] if version == 1 else kind, top=[name])

    data = add("data", "Data")
    data.transform.crop_size = weights.spec.image_size
    if mean_file:
        data.transform.mean_file = mean_file
    for name, item in _rows(weights):
        match item:
            case Conv():
                layer = add(name, "Convolution")
                conv = layer.convolution
                conv.num_output, conv.group = item.features, item.groups
                conv.kernel_size.append(item.kernel)
                conv.stride.append(item.stride)
                conv.pad.append(item.padding)
                _add_blobs(layer, blobs[name], version)
            case Dense():
                layer = add(name, "InnerProduct")
                layer.dense.num_output = len(blobs[name][1])
                _add_blobs(layer, blobs[name], version)
            case ReLU():
                add(name, "ReLU")
            case Dropout():
                add(name, "Dropout")
            case LRN():
                lrn = add(name, "LRN").lrn
                lrn.local_size, lrn.alpha, lrn.beta = item.size, item.alpha, item.beta
            case MaxPool():
                pool = add(name, "Pooling").pooling
                pool.pool, pool.kernel_size, pool.stride = 0, item.window, item.stride
    add("loss", "SoftmaxWithLoss")
    if edit:
        edit(net, layers)
    return net.SerializeToString()


def _rows(weights: Weights):
    for number, item in enumerate(weights.spec, 1):
        yield getattr(item, "name", f"{type(item).__name__.lower()}{number}"), item


def _add_blobs(layer, arrays, version):
    for array in arrays:
        blob = layer.blobs.add()
        blob.data.extend(array.reshape(-1).tolist())
        if version == 1:
            shape = (1,) * (4 - array.ndim) + array.shape
            blob.num, blob.channels, blob.height, blob.width = shape
        else:
            blob.shape.dim.extend(array.shape)


# --- the Toronto .npy ------------------------------------------------------------------------


def npy(weights: Weights, protocol: int | None = None, form: type = list) -> bytes:
    """{layer: [kernel, bias]} with conv1 for B, G, R inputs, as Python 3 writes it."""
    table = {
        name: {"weights": pair[0], "biases": pair[1]} if form is dict else pair
        for name, pair in _npy_layers(weights).items()
    }
    if protocol is None:
        file = io.BytesIO()
        np.save(file, table, allow_pickle=True)
        return file.getvalue()
    return _npy_header() + pickle.dumps(np.array(table, dtype=object), protocol)


def npy_of_python_2(weights: Weights) -> bytes:
    """The same as Python 2 wrote it: bytes as they are, NumPy's module under its old name."""
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01("
    kind = b"tcnumpy\ndtype\n(U\x02%bK\x00K\x01tR(K\x03U\x01%bNNN"
    kind += b"J\xff\xff\xff\xff" * 2 + b"K%btb\x89"
    parts = [_npy_header() + b"\x80\x02" + start + kind % (b"O8", b"|", b"?") + b"](}("]
    for name, arrays in _npy_layers(weights).items():
        parts.append(b"U" + bytes([len(name)]) + name.encode() + b"](")
        for array in arrays:
            shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
            length = b"T" + struct.pack("<i", array.nbytes)
            parts += [start + shape + kind % (b"f4", b"<", b"\0") + length, array.tobytes(), b"tb"]
        parts.append(b"e")
    return b"".join([*parts, b"uetb."])


def _npy_layers(weights: Weights) -> dict[str, list[np.ndarray]]:
    layers = {}
    for row in learned(weights.spec):
        kernel, bias = (weights.arrays[f"{row.name}.{part}"] for part in ("kernel", "bias"))
        layers[row.name] = [kernel[:, :, ::-1].copy() if row.name == "conv1" else kernel, bias]
    return layers


def _npy_header() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


# --- MatConvNet, by SciPy --------------------------------------------------------------------


def matconvnet(weights: Weights, compressed: bool = True, mean: str = "image", edit=None) -> bytes:
    """A SimpleNN model as import-caffe.py writes it; `edit(layers)` may change it first."""
    layers = []
    size = weights.spec.image_size
    arrays = weights.arrays
    for name, item in _rows(weights):
        match item:
            case Conv() | Dense():
                kernel = arrays[f"{name}.kernel"]
                stride, pad = (item.stride, item.padding) if isinstance(item, Conv) else (1, 0)
                if name == "fc6":
                    kernel = kernel.reshape(6, 6, -1, kernel.shape[1])
                elif kernel.ndim == 2:
                    kernel = kernel[None, None]
                pair = np.empty((1, 2), object)
                pair[0, 0], pair[0, 1] = kernel, arrays[f"{name}.bias"][None]
                numbers = {"stride": [[float(stride)] * 2], "pad": [[float(pad)] * 4]}
                layers.append({"name": name, "type": "conv", "weights": pair, **numbers})
            case ReLU():
                layers.append({"name": name, "type": "relu"})
            case LRN():
                numbers = [item.size, item.k, item.alpha / item.size, item.beta]
                layers.append({"name": name, "type": "normalize", "param": [numbers]})
            case MaxPool():
                layers.append({"name": name, "type": "pool", "method": "max",
                               "pool": [[3.0, 3.0]], "stride": [[2.0, 2.0]],
                               "pad": [[0.0, 0.0, 0.0, 0.0]]})  # fmt: skip
    layers.append({"name": "prob", "type": "softmax"})
    if edit:
        edit(layers)
    image = np.random.default_rng(3).uniform(90, 130, (size, size, 3)).astype("f4")
    if mean == "value":
        image = np.array([[[123.0, 117.0, 104.0]]])
    cells = np.empty((1, len(layers)), object)
    cells[0] = layers
    names = np.empty((1, weights.spec.num_classes), object)
    names[0] = list(weights.class_names)
    model = {
        "layers": cells,
        "normalization": {"imageSize": [[float(size), float(size), 3.0]], "averageImage": image},
        "classes": {"description": names},
    }
    file = io.BytesIO()
    scipy.io.savemat(file, model, do_compression=compressed, oned_as="row")
    return file.getvalue()


# --- ONNX, by its own package ----------------------------------------------------------------


def onnx_zoo(weights: Weights, edit=None) -> bytes:
    """bvlcalexnet as the zoo has it: B, G, R, a pad in place of ceil, a reshape, a softmax."""
    nodes, tensors = [], []
    current = "data_0"
    flat = False

    def add(op, inputs=(), **attributes):
        nonlocal current
        nodes.append(helper.make_node(op, [current, *inputs], [f"t{len(nodes)}"], **attributes))
        current = f"t{len(nodes) - 1}"

    for name, (kernel, bias) in caffe_layout(weights).items():
        tensors += [numpy_helper.from_array(kernel, f"{name}_w_0"),
                    numpy_helper.from_array(bias, f"{name}_b_0")]  # fmt: skip
    pools = 0
    for name, item in _rows(weights):
        both = [f"{name}_w_0", f"{name}_b_0"]
        match item:
            case Conv():
                add("Conv", both, kernel_shape=[item.kernel] * 2, strides=[item.stride] * 2,
                    pads=[item.padding] * 4, group=item.groups)  # fmt: skip
            case ReLU():
                add("Relu")
            case LRN():
                add("LRN", size=item.size, alpha=item.alpha, beta=item.beta, bias=item.k)
            case MaxPool():
                pools += 1
                pads = [0, 0, 1, 1] if pools == 3 else [0, 0, 0, 0]
                add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=pads)
            case Dense():
                if not flat:
                    shape = np.array([1, kernel_inputs(weights)], "i8")
                    tensors.append(numpy_helper.from_array(shape, "OC2_DUMMY_1"))
                    add("Reshape", ["OC2_DUMMY_1"])
                    flat = True
                add("Gemm", both, transB=1)
            case Dropout():
                add("Dropout")
    add("Softmax", axis=1)
    size = weights.spec.image_size
    graph = helper.make_graph(
        nodes, "alexnet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    model = helper.make_model(graph, producer_name="onnx-caffe2",
                              opset_imports=[helper.make_opsetid("", 9)])  # fmt: skip
    if edit:
        edit(model)
    return model.SerializeToString()


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def kernel_inputs(weights: Weights) -> int:
    return weights.arrays["fc6.kernel"].shape[0]


def onnx_dynamo(weights: Weights, edit=None) -> onnx.ModelProto:
    """What torch's newer exporter makes of a net with nn.LocalResponseNorm, for any batch."""
    nodes, tensors = [], []
    current = "x"

    def constant(values) -> str:
        values = np.asarray(values)
        values = values.astype("f4" if values.dtype.kind == "f" else "i8")
        tensors.append(numpy_helper.from_array(values, f"val_{len(tensors)}"))
        return tensors[-1].name

    def add(op, *inputs, **attributes):
        nonlocal current
        name = f"{op.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(op, [current, *inputs], [name], **attributes))
        current = name

    for row, (name, item) in zip(trace(weights.spec), _rows(weights), strict=True):
        height, width, channels = row.in_shape if len(row.in_shape) == 3 else (0, 0, 0)
        if isinstance(item, Conv | Dense):
            tensors += _torch_tensors(weights, name)
        match item:
            case Conv():
                add("Conv", f"{name}.weight", f"{name}.bias", group=item.groups,
                    pads=[item.padding] * 4, strides=[item.stride] * 2, dilations=[1, 1],
                    kernel_shape=[item.kernel] * 2, auto_pad="NOTSET")  # fmt: skip
            case ReLU():
                add("Relu")
            case LRN():
                image, pads = current, [0] * 10
                pads[2], pads[7] = item.size // 2, (item.size - 1) // 2
                add("Mul", current)
                add("Reshape", constant([-1, 1, channels, height, width]), allowzero=1)
                add("Pad", constant(pads), mode="constant")
                add("AveragePool", kernel_shape=[item.size, 1, 1], strides=[1, 1, 1],
                    pads=[0] * 6, count_include_pad=1, ceil_mode=0, auto_pad="NOTSET")  # fmt: skip
                add("Squeeze", constant([1]))
                add("Mul", constant(item.alpha))
                add("Add", constant(item.k))
                add("Pow", constant(item.beta))
                nodes.append(helper.make_node("Div", [image, current], [f"div_{len(nodes)}"]))
                current = nodes[-1].output[0]
            case MaxPool():
                add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4,
                    ceil_mode=int(item.ceil), storage_order=0, dilations=[1, 1])  # fmt: skip
            case Flatten():
                add("Reshape", constant([-1, height * width * channels]), allowzero=1)
            case Dense():
                add("Gemm", f"{name}.weight", f"{name}.bias", alpha=1.0, beta=1.0, transB=1)
    shape = ["batch", 3, weights.spec.image_size, weights.spec.image_size]
    graph = helper.make_graph(
        nodes, "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, ["batch", None])], tensors,
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, producer_name="pytorch", opset_imports=opset, ir_version=10)
    if edit:
        edit(model)
    return model


def _torch_tensors(weights: Weights, name: str) -> list[TensorProto]:
    """A layer's kernel and bias in torch's layout, for R, G, B inputs."""
    kernel, bias = caffe_layout(weights)[name]
    kernel = kernel[:, ::-1] if name == "conv1" else kernel
    kernel = np.ascontiguousarray(kernel)
    return [
        numpy_helper.from_array(array, f"{name}.{part}")
        for part, array in (("weight", kernel), ("bias", bias))
    ]


def check_onnx(data: bytes) -> onnx.ModelProto:
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    return model
