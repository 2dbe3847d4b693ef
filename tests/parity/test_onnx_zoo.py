"""The zoo's own graph, in the onnx package with weights of one value, against ONNX Runtime."""

from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import alexnet_jax
import alexnet_torch
from alexnet.weights import load

from .pairs import FORWARD_BOUND, report, worst_by_std

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The graph with random weights, which it computes itself as they are shipped."""
    model = onnx.load(LIGHT)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    random = np.random.default_rng(0)
    for node in list(model.graph.node):
        if node.op_type == "ConstantOfShape":
            shape = shapes[node.input[0]]
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            array = random.standard_normal(shape, np.float32) * np.float32(scale)
            model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            model.graph.node.remove(node)
    for part in (model.graph.initializer, model.graph.input):
        for value in list(part):
            if value.name.endswith("__SHAPE"):
                part.remove(value)
    softmax = model.graph.node.pop()
    logits = helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, [1, 1000])
    model.graph.output[0].CopyFrom(logits)
    path = tmp_path_factory.mktemp("zoo") / "filled.onnx"
    onnx.save(model, path)
    return path


def test_the_shipped_file():
    weights = load(LIGHT)
    assert (weights.spec.name, weights.spec.image_size) == ("onnx_zoo", 224)
    assert all((array == np.float32(0.02)).all() for array in weights.arrays.values())


def test_both_frameworks(filled):
    session = onnxruntime.InferenceSession(filled)
    image = 50 * np.random.default_rng(1).standard_normal((1, 224, 224, 3), np.float32)
    nchw = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    (expected,) = session.run(None, {"data_0": nchw[:, ::-1]})  # B, G, R
    weights = load(filled)
    with torch.no_grad():
        ours = {
            "jax": np.asarray(
                alexnet_jax.AlexNet(weights.spec, weights=weights.arrays)(jax.numpy.asarray(image))
            ),
            "torch": alexnet_torch.AlexNet(weights.spec, weights=weights.arrays)
            .eval()(torch.from_numpy(nchw))
            .numpy(),
        }
    measured = worst_by_std(ours, dict.fromkeys(ours, expected))
    assert report("the zoo's graph", measured, FORWARD_BOUND) < FORWARD_BOUND
