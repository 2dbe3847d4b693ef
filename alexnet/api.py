"""The Python interface to what was trained: `alexnet.predict`, `evaluate` and `preprocess`.

Everything is imported when it is called: `import alexnet` waits for no library.
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
    """Classes of images, prepared as the weights ask.

    Args:
        weights: a run, a weights file, `weights.Weights`, or a model of either framework that came
            from a file.
        images: one or a list of: a path, an encoded image, uint8 pixels (H x W or H x W x C), a
            Pillow image.
        framework: that computes, by default a run's own, else jax where it is installed; with
            both, the two must agree.
        top_k: classes of each image.
        ten_crop: average over the paper's ten views.
        batch_size: images computed at a time.

    Returns:
        A `Prediction` for each image, in their order: `classes`, `class_names`, `probabilities`,
        highest first.

    Raises:
        UserError: where weights or an image can't be read.
        RunError: where outputs are not finite, or the two frameworks disagree.
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
    """Accuracy on the evaluation part of a data set.

    Args:
        weights: a run, a weights file, `weights.Weights`, or a model of either framework that came
            from a file.
        dataset: digits, tfds:NAME, folder:PATH, cache:PATH, or an open data set; a run is by
            default evaluated on its own, and gives its own numbers.
        protocol: center, ten-crop, caffe, torchvision or onnx-zoo.
        **options: framework, batch_size, precision, devices, data_dir, seed, step, variant,
            image_size, preparation, on_bad_image, loader_threads and loader_workers, as for
            `evaluation.evaluate_weights`.

    Returns:
        An `Evaluation`: `top1`, `top5`, `loss`, `count`, intervals, and each example's
        `predictions`.

    Raises:
        UserError: where weights or data can't be used, or don't fit each other.
        RunError: where the count of examples is not what it must be, or outputs are not finite.
    """
    from alexnet.evaluation import evaluate_weights

    if not isinstance(weights, str | PurePath):
        weights = as_weights(weights)
    return evaluate_weights(weights, dataset, protocols=(protocol,), **options)[0]


def preprocess(image: Any, weights: str | PurePath | Weights | Preprocess | Any) -> np.ndarray:
    """An image as a network's input: float32 [S, S, C], resized, cropped and normalized.

    JAX's models take a batch of these; torch's want them as [C, S, S].

    Args:
        image: a path, an encoded image, uint8 pixels (H x W or H x W x C), or a Pillow image.
        weights: what the image is for: a run, a weights file, `weights.Weights`, a model that came
            from a file, or a `Preprocess`.

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
    """Weights from where `open_weights` finds them, or those in a model that came from a file.

    Raises:
        UserError: where there are none, or a model doesn't know how its input is prepared.
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
