"""The Python interface to trained networks: `alexnet.predict`, `evaluate` and `preprocess`.

Libraries are imported only when a function is called, so that `import alexnet` is fast.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from alexnet.data.dataset import Dataset
    from alexnet.evaluation import Evaluation
    from alexnet.prediction import Prediction
    from alexnet.preprocess import Preprocess
    from alexnet.protocols import ProtocolName
    from alexnet.weights import Weights


def predict(
    weights: str | PurePath | Weights | Any,
    images: Any,
    *,
    framework: Literal["jax", "torch", "both"] | None = None,
    top_k: int = 5,
    ten_crop: bool = False,
    batch_size: int = 32,
) -> list[Prediction]:
    """Predict the classes of images, preprocessed as the weights require.

    Args:
        weights: a run, a weights file, `weights.Weights`, or a model of either framework that was
            loaded from a file.
        images: one or a list of: a path, an encoded image, uint8 pixels (H x W or H x W x C), a
            Pillow image.
        framework: the framework to use, by default a run's own, else jax if it is installed; with
            both, the two must agree.
        top_k: number of classes returned for each image.
        ten_crop: average over the paper's ten views.
        batch_size: number of images computed at a time.

    Returns:
        A `Prediction` for each image, in order: `classes`, `class_names`, `probabilities`, highest
        first.

    Raises:
        UserError: if weights or an image can't be read.
        RunError: if outputs are not finite, or the two frameworks disagree.
    """
    from alexnet.prediction import predict_images
    from alexnet.trained import framework_for

    whole = as_weights(weights)
    used = framework or framework_for(weights if isinstance(weights, str | PurePath) else whole)
    single = not isinstance(images, list | tuple)
    return predict_images(whole, [images] if single else images, used, top_k, ten_crop, batch_size)


def evaluate(
    weights: str | PurePath | Weights | Any,
    dataset: str | Dataset | None = None,
    *,
    protocol: ProtocolName = "center",
    **options: Any,
) -> Evaluation:
    """Measure accuracy on the evaluation part of a data set.

    Args:
        weights: a run, a weights file, `weights.Weights`, or a model of either framework that was
            loaded from a file.
        dataset: digits, tfds:NAME, folder:PATH, cache:PATH, or an open data set. By default a run
            is evaluated on its own data set, which reproduces its own numbers.
        protocol: center, ten-crop, caffe, torchvision or onnx-zoo.
        **options: framework, batch_size, precision, devices, data_dir, seed, step, variant,
            image_size, preparation, on_bad_image, loader_threads and loader_workers, as for
            `evaluation.evaluate_weights`.

    Returns:
        An `Evaluation`: `top1`, `top5`, `loss`, `count`, intervals, and each example's
        `predictions`.

    Raises:
        UserError: if weights or data can't be used, or don't fit each other.
        RunError: if the number of examples counted is wrong, or outputs are not finite.
    """
    from alexnet.evaluation import evaluate_weights

    if not isinstance(weights, str | PurePath):
        weights = as_weights(weights)
    return evaluate_weights(weights, dataset, protocols=(protocol,), **options)[0]


def preprocess(image: Any, weights: str | PurePath | Weights | Preprocess | Any) -> np.ndarray:
    """Turn an image into a network's input: float32 [S, S, C], resized, cropped and normalized.

    JAX models take a batch of these; torch models need them as [C, S, S].

    Args:
        image: a path, an encoded image, uint8 pixels (H x W or H x W x C), or a Pillow image.
        weights: the source of the preprocessing: a run, a weights file, `weights.Weights`, a model
            loaded from a file, or a `Preprocess`.

    Raises:
        UserError: for an image or weights that can't be read.
    """
    from alexnet.data.images import BadImage
    from alexnet.data.inputs import network_input
    from alexnet.errors import UserError
    from alexnet.preprocess import Preprocess

    if not isinstance(weights, Preprocess):
        weights = as_weights(weights).preprocess
    channels = len(weights.normalize.mean)
    try:
        return network_input(image, weights, channels)
    except BadImage as error:
        raise UserError(f"the image can't be read: {error}") from error


def as_weights(source: str | PurePath | Weights | Any) -> Weights:
    """Weights from any source of `open_weights`, or from a model that was loaded from a file.

    Raises:
        UserError: if there are none, or a model doesn't know its preprocessing.
    """
    from alexnet.errors import UserError
    from alexnet.trained import open_weights
    from alexnet.weights import Weights

    if isinstance(source, str | PurePath | Weights):
        return open_weights(source)
    if getattr(source, "preprocess", None) is None:
        raise UserError(
            f"this {type(source).__name__} does not know how its input is prepared: make it with "
            "from_pretrained or from_weights, or set its .preprocess"
        )
    return Weights(
        source.weights(),
        source.spec,
        source.preprocess,
        source.class_names,
        source="a model in memory",
        preprocess_from="the model",
    )
