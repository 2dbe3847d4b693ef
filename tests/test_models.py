"""What both models offer besides the forward pass: modes, names, weights taken from files."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import alexnet_jax
import alexnet_torch
from alexnet.errors import UserError
from alexnet.spec import variant
from alexnet.weights import check, save
from tests.weights.helpers import images, narrow

SIZE = 67


@pytest.fixture(scope="module", params=["paper", "bn"])
def weights(request):
    return narrow(request.param, image_size=SIZE)


def from_spec(weights, **options):
    return alexnet_jax.AlexNet(weights.spec, weights=weights.arrays, **options)


def test_a_new_model_evaluates(weights):
    model, x = from_spec(weights), images(weights.spec)
    assert (model(x) == model(x, train=False)).all()


def test_train_and_eval_set_the_mode_and_return_the_model(weights):
    model, x = from_spec(weights, rngs=nnx.Rngs(dropout=1)), images(weights.spec)
    evaluated = model(x)
    trained = from_spec(weights, rngs=nnx.Rngs(dropout=1))(x, train=True)
    assert (model.train()(x) == trained).all()
    assert not (trained == evaluated).all()
    assert not (model(x) == evaluated).all()  # the mode stays
    assert (model(x, train=False) == from_spec_like(model)(x)).all()  # and the call has its say
    assert (model.eval()(x) == model(x, train=False)).all()


def from_spec_like(model):
    return alexnet_jax.AlexNet(model.spec, weights=model.weights())


def test_activations_follow_the_mode(weights):
    model, x = from_spec(weights, rngs=nnx.Rngs(dropout=1)), images(weights.spec)
    evaluated = model.activations(x)["dropout6"]
    assert (model.train().activations(x)["dropout6"] == 0).sum() > (evaluated == 0).sum()


def test_a_training_call_without_a_stream_is_an_error(weights):
    with pytest.raises(ValueError, match="rngs"):
        from_spec(weights).train()(images(weights.spec))


def test_help_shows_what_a_model_is_made_of():
    shown = inspect.signature(alexnet_jax.AlexNet)
    assert list(shown.parameters) == ["spec", "rngs", "weights", "dtype"]
    control = type("Bare", (nnx.Module,), {"__init__": lambda self, spec: None})
    assert "spec" not in inspect.signature(control).parameters


def test_calling_a_model_keeps_its_own_signature(weights):
    assert next(iter(inspect.signature(from_spec(weights)).parameters)) == "images"


def test_models_made_from_a_spec_carry_no_preprocessing(weights):
    for model in (from_spec(weights), alexnet_torch.AlexNet(weights.spec)):
        assert model.preprocess is None
        assert model.class_names is None


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
@pytest.mark.parametrize("maker", ["from_weights", "from_pretrained"])
def test_models_from_files_carry_their_preprocessing_and_classes(package, maker, weights, tmp_path):
    save(tmp_path / "a.safetensors", weights)
    model = getattr(package.AlexNet, maker)(tmp_path / "a.safetensors")
    assert model.preprocess == weights.preprocess
    assert model.class_names == weights.class_names
    assert all((model.weights()[n] == a).all() for n, a in weights.arrays.items())


def test_a_loaded_model_draws_from_its_own_stream(weights, tmp_path):
    save(tmp_path / "a.safetensors", weights)
    options = {"rngs": nnx.Rngs(dropout=1), "dtype": jnp.bfloat16}
    model = alexnet_jax.AlexNet.from_weights(tmp_path / "a.safetensors", **options)
    x = images(weights.spec)
    assert model.dtype == jnp.bfloat16
    assert not (model.train()(x) == model.eval()(x)).all()


def test_nnx_takes_the_static_attributes(weights, tmp_path):
    save(tmp_path / "a.safetensors", weights)
    model = alexnet_jax.AlexNet.from_pretrained(tmp_path / "a.safetensors", rngs=nnx.Rngs(0))
    x, plain = images(weights.spec), from_spec(weights, rngs=nnx.Rngs(0))
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(nnx.state(plain))
    graphdef, state = nnx.split(model)
    hash(graphdef)
    back = nnx.merge(graphdef, state)
    assert (back.preprocess, back.class_names) == (weights.preprocess, weights.class_names)
    logits = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)
    assert jnp.abs(logits - nnx.jit(lambda model, x: model(x))(model, x)).max() == 0
    assert jnp.abs(logits - model(x)).max() < 1e-4 * logits.std()


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
def test_a_model_takes_other_weights(package, weights):
    other = narrow(weights.spec.name, seed=1, image_size=SIZE)
    model = package.AlexNet(weights.spec, weights=weights.arrays)
    model.load_weights(other.arrays)
    assert all((model.weights()[n] == a).all() for n, a in other.arrays.items())


def test_jax_refuses_weights_of_another_network_and_keeps_its_own(weights):
    model = from_spec(weights)
    wrong = {**weights.arrays, "fc8.bias": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"fc8\.bias"):
        model.load_weights(wrong)
    assert all((model.weights()[n] == a).all() for n, a in weights.arrays.items())


def called(framework, spec, x, **options):
    """The logits of a new model for NHWC images."""
    if framework == "jax":
        rngs = None if "weights" in options else nnx.Rngs(0)
        model = alexnet_jax.AlexNet(spec, rngs=rngs, **options)
        return jax.eval_shape(model, x)  # nothing is compiled
    model = alexnet_torch.AlexNet(spec, **options)
    return model(torch.tensor(x).movedim(-1, 1))


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize("spec", ["paper", None, 5, {"name": "paper"}])
def test_what_is_no_table_is_a_sentence(framework, spec):
    with pytest.raises(
        UserError, match=r"a network's table is needed, not .*spec.variant\('paper'\)"
    ):
        called(framework, spec, np.zeros((1, 227, 227, 3), "f4"))


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_missing_superfluous_and_misshapen_arrays_stand_in_one_sentence(framework, weights):
    arrays = {**weights.arrays, "fc9.bias": np.zeros(3, "f4")}
    del arrays["fc7.kernel"]
    arrays["conv1.bias"] = arrays["conv1.bias"][:-1]
    with pytest.raises(
        UserError, match=r"missing fc7\.kernel; unexpected fc9\.bias; conv1\.bias is"
    ):
        called(framework, weights.spec, None, weights=arrays)


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize(
    "shape", [(1, 32, 32, 3), (1, 67, 67, 1), (1, 67, 99, 3), (1, 3, 67, 67), (67, 67, 3)]
)
def test_images_that_do_not_fit_are_a_sentence(framework, shape, weights):
    with pytest.raises(UserError, match=r"don't fit variant .*: it takes N.* of Nx"):
        called(framework, weights.spec, np.zeros(shape, "f4"), weights=weights.arrays)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_adaptive_pooling_takes_any_size_that_leaves_something(framework):
    whole = narrow("torchvision", image_size=SIZE)
    for shape in ((1, 67, 67, 3), (2, 100, 71, 3), (1, 63, 63, 3)):
        x = np.zeros(shape, "f4")
        assert called(framework, whole.spec, x, weights=whole.arrays).shape == (shape[0], 7)
    with pytest.raises(UserError, match=r"don't fit variant 'torchvision': it takes N.* of Nx"):
        called(framework, whole.spec, np.zeros((1, 32, 32, 3), "f4"), weights=whole.arrays)


def hooked(weights):
    """A torch model, its images, and the names of the layers whose hooks were called."""
    model, called = alexnet_torch.AlexNet(weights.spec, weights=weights.arrays).eval(), []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    return model, torch.tensor(images(weights.spec)).movedim(-1, 1), called


def test_torchs_hooks_see_every_layer(weights):
    model, x, called = hooked(weights)
    model(x)
    assert called == [name for name, _ in model.named_children()]


def test_a_hook_keeps_what_its_layer_gave(weights):
    model, x, _ = hooked(weights)
    kept, gradients = [], []
    model.conv1.register_forward_hook(lambda *given: kept.append(given[2]))
    model.conv5.register_full_backward_hook(lambda *given: gradients.append(given[2][0]))
    model(x).sum().backward()
    assert (kept[0] == model.activations(x)["conv1"]).all()
    assert gradients[0].abs().max() > 0


def test_torchs_layers_follow_the_callers_autocast(weights):
    model, x, _ = hooked(weights)
    types = {}
    for name in ("conv2", "fc6"):
        layer = getattr(model, name)
        layer.register_forward_hook(lambda *given, name=name: types.update({name: given[2].dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert types == {"conv2": torch.bfloat16, "fc6": torch.bfloat16}
    own = alexnet_torch.AlexNet(weights.spec, weights=weights.arrays, dtype=torch.bfloat16).eval()
    assert (logits == own(x)).all()


def test_torch_func_gives_each_examples_gradient(weights):
    model, x, _ = hooked(weights)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, image):
        return torch.func.functional_call(model, (parameters, buffers), (image[None],)).logsumexp(
            1
        )[0]

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x[:2])
    model(x[:2]).logsumexp(1).sum().backward()
    for name, parameter in parameters.items():
        worst = (each[name].sum(0) - parameter.grad).abs().max()
        assert worst <= 1e-4 * parameter.grad.abs().max(), name


def test_torchs_shapes_are_known_without_memory(weights):
    model = alexnet_torch.AlexNet(weights.spec).to("meta")
    side = weights.spec.image_size
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
def test_weights_are_fp32_whatever_the_models_are(package, weights):
    model = package.AlexNet(weights.spec, weights=weights.arrays)
    if package is alexnet_torch:
        model.to(torch.bfloat16)
    else:
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model)))
    check(model.weights(), weights.spec)


def test_torchs_weights_are_not_the_ones_that_go_on_changing(weights):
    model = alexnet_torch.AlexNet(weights.spec, weights=weights.arrays)
    before = model.weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all((before[n] == a).all() for n, a in weights.arrays.items())


@pytest.mark.parametrize("name", ["cifar_80sec", "cifar_18pct", "figure1_relu"])
def test_networks_without_dropout_train_in_jax_without_a_stream(name):
    spec = variant(name, num_classes=7)
    x = jnp.zeros((2, spec.image_size, spec.image_size, 3))
    model = alexnet_jax.AlexNet(spec, rngs=nnx.Rngs(0)).train()
    assert jax.eval_shape(model, x).shape == (2, 7)
    model = alexnet_jax.AlexNet(spec, weights=model.weights()).train()
    assert jax.eval_shape(model, x).shape == (2, 7)


def test_jax_makes_models_inside_transformations(weights):
    def make():
        return alexnet_jax.AlexNet(weights.spec, rngs=nnx.Rngs(3))

    plain, shapes, jitted = make(), nnx.eval_shape(make), nnx.jit(make)()
    assert shapes.conv1.kernel.shape == plain.conv1.kernel.shape
    each = nnx.split_rngs(splits=2)(
        nnx.vmap(lambda rngs: alexnet_jax.AlexNet(weights.spec, rngs=rngs))
    )
    assert each(nnx.Rngs(0)).conv1.kernel.shape == (2, *plain.conv1.kernel.shape)
    for name, array in plain.weights().items():
        assert (jitted.weights()[name] == array).all(), name


def test_a_generator_of_another_kind_seeds_the_same_weights(weights):
    first, second = (
        alexnet_jax.AlexNet(weights.spec, rngs=nnx.Rngs(jax.random.key(3, impl=kind)))
        for kind in ("threefry2x32", "rbg")
    )
    assert all((second.weights()[n] == a).all() for n, a in first.weights().items())


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
def test_an_empty_batch_has_no_logits(package, weights):
    model = package.AlexNet(weights.spec, weights=weights.arrays)
    x = images(weights.spec)[:0]
    given = jnp.asarray(x) if package is alexnet_jax else torch.tensor(x).movedim(-1, 1)
    assert model(given).shape == (0, 7)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0), np.zeros((3, 2), "u4")])
def test_keys_that_are_not_one_a_layer_are_a_sentence(key, weights):
    with pytest.raises(UserError, match=r"key is of shape .* it must be 2x2 uint32"):
        from_spec(weights)(images(weights.spec), train=True, key=key)


class Doubled(nnx.Linear):
    """A layer that is more than its kernel and bias."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def test_jax_calls_the_layers_that_a_user_puts_in(weights):
    model, x = from_spec(weights), images(weights.spec)
    last = model.activations(x)["relu7"]
    model.fc8 = Doubled(last.shape[1], 3, use_bias=False, rngs=nnx.Rngs(0))
    assert jnp.abs(model(x) - 2 * last @ model.fc8.kernel[...]).max() < 1e-6
    assert "fc8.bias" not in model.weights()
    before = model.activations(x)
    model.relu1 = lambda x: 0 * x
    assert (model.activations(x)["relu1"] == 0).all()
    assert not (model.activations(x)["pool1"] == before["pool1"]).all()
