"""Tests of `examples/models.py` and `examples/patch_conv.py`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from patch_conv import PatchConv, extract_patches, max_pool, mean_pool

EXAMPLE_SHAPES = {
    "tanh_cnn": (28, 28, 1),
    "group_norm_cnn": (28, 28, 1),
    "mlp": (108,),
    "linear": (108,),
    "scatter_linear": (7, 7, 81),
    "scatter_cnn": (7, 7, 81),
}


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def random_params(model, x):
    """Parameters in the shapes of `model.init`, without compiling a generator."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda leaf: 0.1 * generator.standard_normal(leaf.shape, np.float32), shapes
    )


def assert_trees_close(found, expected, atol):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=atol),
        found,
        expected,
    )


# --- PatchConv -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((28, 28, 1), 8, 2, 3),
        ((13, 13, 16), 4, 2, 0),
        ((7, 7, 5), 3, 2, 1),
        ((7, 9, 2), 3, 1, 1),
        ((10, 11, 2), 2, 3, 0),
    ],
)
def test_patch_conv_is_nn_conv(shape, size, stride, padding):
    ours = PatchConv(4, size, stride, padding)
    theirs = nn.Conv(4, (size,) * 2, (stride,) * 2, ((padding,) * 2,) * 2)

    x = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    params = random_params(theirs, x)
    assert_trees_close(random_params(ours, x), params, atol=0)

    @jax.jit
    def values_and_gradients(params, x):
        def loss(params, x, model):
            out = model.apply(params, x)
            return jnp.sum(jnp.sin(out)), out

        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(params, x, ours), gradient(params, x, theirs)

    found, expected = values_and_gradients(params, x)
    assert_trees_close(found, expected, atol=3e-5)


def test_patch_conv_begins_as_nn_conv_does():
    x = jnp.zeros((5, 5, 2))
    ours, theirs = PatchConv(4, 3, 2, 1), nn.Conv(4, (3, 3), (2, 2), 1)
    init = jax.jit(lambda key: (ours.init(key, x), theirs.init(key, x)))
    assert_trees_close(*init(jax.random.key(1)), atol=0)


def test_patches_come_in_the_order_of_a_kernel():
    x = jnp.arange(32.0).reshape(4, 4, 2)
    patches = extract_patches(x, 2, 2, 0)
    assert patches.shape == (2, 2, 8)
    np.testing.assert_array_equal(patches[1, 0], x[2:4, 0:2].reshape(-1))


def test_images_smaller_than_the_kernel_are_refused():
    with pytest.raises(ValueError, match=r"at least 5 x 5, got shape=\(4, 6\)"):
        extract_patches(jnp.zeros((2, 4, 1)), 5, 1, 1)


def test_max_pool_is_that_of_flax():
    x = np.random.default_rng(0).standard_normal((3, 6, 5, 4), np.float32)

    def theirs(x):
        return nn.max_pool(x, (2, 2), (1, 1))

    np.testing.assert_array_equal(max_pool(x), theirs(x))
    ours_gradient, theirs_gradient = (
        jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(x))))(x)
        for pool in (max_pool, theirs)
    )
    np.testing.assert_allclose(ours_gradient, theirs_gradient, atol=1e-6)


def test_max_pool_of_a_constant_passes_the_whole_gradient_on():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.zeros((3, 4, 1)))
    # 2 x 3 windows; a black background ties everywhere.
    np.testing.assert_allclose(gradient.sum(), 6, rtol=1e-6)


# --- The models ----------------------------------------------------------------------


class PaperCNN(nn.Module):
    """The CNN as Papernot et al. print it."""

    @nn.compact
    def __call__(self, x):
        padding = ((3, 3), (3, 3))
        x = nn.tanh(nn.Conv(16, (8, 8), (2, 2), padding, name="conv_0")(x))
        x = nn.max_pool(x, (2, 2), (1, 1))
        x = nn.tanh(nn.Conv(32, (4, 4), (2, 2), "VALID", name="conv_1")(x))
        x = nn.max_pool(x, (2, 2), (1, 1))
        x = nn.tanh(nn.Dense(32, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="logits")(x)


def test_tanh_cnn_is_that_of_the_paper_on_centred_pixels():
    ours, theirs = models.TanhCNN(10), PaperCNN()
    x = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    params = random_params(ours, x)
    # 64*16+16 + 256*32+32 + 512*32+32 + 32*10+10
    assert count(params) == 26_010
    assert_trees_close(random_params(theirs, x), params, atol=0)
    found, expected = jax.jit(
        lambda p: (ours.apply(p, x), theirs.apply(p, 3 * x - 0.75))
    )(params)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", list(models.MODELS))
def test_model_takes_one_example_or_a_batch_and_mixes_none(name):
    model = models.make(name, 3)
    x = np.random.default_rng(0).random((3, *EXAMPLE_SHAPES[name]), np.float32)
    params = random_params(model, x)
    assert_trees_close(random_params(model, x[0]), params, atol=0)
    logits = jax.jit(model.apply)(params, x)
    assert logits.shape == (3, 3)
    single = jax.jit(model.apply)(params, x[1])
    np.testing.assert_allclose(single, logits[1], rtol=1e-5, atol=1e-5)
    x[0] *= -100
    after = jax.jit(model.apply)(params, x)
    np.testing.assert_array_equal(after[1:], logits[1:])
    assert not np.array_equal(after[0], logits[0])


@pytest.mark.parametrize("name", ["tanh_cnn", "group_norm_cnn"])
def test_per_example_gradients_average_to_the_plain_gradient(name):
    model = models.make(name, 4)

    def loss(params, x):
        return jnp.mean(jnp.sum(jnp.sin(model.apply(params, x)), axis=-1))

    @jax.jit
    def gradients(params, x):
        single = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, x)
        return jax.tree.map(lambda g: g.mean(0), single), jax.grad(loss)(params, x)

    x = np.random.default_rng(0).random((5, *EXAMPLE_SHAPES[name]), np.float32)
    found, expected = gradients(random_params(model, x), x)
    assert_trees_close(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_models_for_tables_flatten_images(name):
    model, x = models.make(name, 10), jnp.ones((2, 28, 28, 1))
    params = random_params(model, x)
    flat = x.reshape(2, -1)
    np.testing.assert_array_equal(model.apply(params, x), model.apply(params, flat))


def test_linear_model_begins_without_an_opinion():
    model, x = models.make("linear", 10), jnp.ones((2, 5))
    assert not model.apply(model.init(jax.random.key(0), x), x).any()


def test_group_norm_of_scattering_features_has_no_parameters_and_unit_moments():
    x = 5 + 3 * np.random.default_rng(0).standard_normal((7, 7, 81), np.float32)
    model = models.ScatterLinear(10)
    params = random_params(model, x)
    assert set(params["params"]) == {"linear"}
    _, state = model.apply(params, x, capture_intermediates=True)
    (normal,) = state["intermediates"]["norm"]["__call__"]
    groups = normal.reshape(49, 27, 3)
    np.testing.assert_allclose(groups.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std((0, 2)), 1, atol=1e-4)


def test_group_norm_cnn_has_the_parameters_of_its_docstring():
    params = random_params(models.make("group_norm_cnn", 10), np.zeros((28, 28, 1)))
    # 8*8*16+16 + 3*3*16*32+32 + 3*3*32*10+10
    assert count(params) == 8_570


@pytest.mark.parametrize("shape", [(2, 14, 14, 3), (7, 7, 2), (3, 4, 5, 1)])
def test_mean_pool_is_nn_avg_pool(shape):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    np.testing.assert_allclose(mean_pool(x), nn.avg_pool(x, (2, 2), (2, 2)), atol=1e-6)


def test_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'tanh_cnn', .* got name='resnet'"):
        models.make("resnet", 10)


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=f"got num_classes={num_classes}"):
        models.make("mlp", num_classes)


def test_scattering_models_are_known_models():
    assert set(models.MODELS) > models.SCATTERING_MODELS
