"""The private trace of a Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from releases import pure_noise, quadratic

from dpjax.curvature import Private
from dpjax.release import private_trace

N = 500
PARAMS = {"w": jnp.asarray([0.3, -0.8, 0.5]), "b": jnp.float32(0.2)}


def logistic(params, x, y):
    logit = jnp.vdot(params["w"], x) + params["b"]
    return jnp.logaddexp(0.0, logit) - y * logit


def data(batch_size=N):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch_size, 3))
    y = generator.integers(0, 2, batch_size)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def released(key=0, clip=100.0, noise_multiplier=0.0, num_probes=16, **options):
    return private_trace(
        logistic,
        PARAMS,
        Private(data()),
        l2_norm_clip=clip,
        noise_multiplier=noise_multiplier,
        num_probes=num_probes,
        key=key,
        **options,
    )


def true_trace():
    """Return the mean of p (1 - p) (|x|^2 + 1), float64."""
    x = np.asarray(data()[0], float)
    p = 1 / (1 + np.exp(-(x @ np.asarray(PARAMS["w"], float) + 0.2)))
    return np.mean(p * (1 - p) * (np.sum(x**2, axis=1) + 1))


def test_estimate_without_noise_and_clipping_is_unbiased():
    found = released(num_probes=400)
    values = np.asarray(found.per_probe, float)
    standard_error = values.std() / np.sqrt(400)
    assert abs(values.mean() - true_trace()) < 4 * standard_error
    assert true_trace() / 3 > 4 * standard_error
    np.testing.assert_allclose(found.value, values.mean(), rtol=1e-6)


def test_diagonal_hessian_has_its_trace_with_every_probe():
    x = jnp.asarray([[1.0, 2.0, 3.0], [0.5, 0.5, 0.0]])
    found = private_trace(
        quadratic,
        jnp.ones(3),
        Private(x),
        l2_norm_clip=100.0,
        noise_multiplier=0.0,
        num_probes=7,
        key=0,
    )
    np.testing.assert_allclose(found.per_probe, np.full(7, 3.5), rtol=1e-5)


def test_examples_are_clipped_by_the_norm_over_all_probes():
    # Of both examples, each of 4 probes gives the trace: 2 and 12, norms 4 and 24.
    x = jnp.asarray([[1.0, 1.0], [6.0, 6.0]])
    found = private_trace(
        quadratic,
        jnp.ones(2),
        Private(x),
        l2_norm_clip=8.0,
        noise_multiplier=0.0,
        num_probes=4,
        key=0,
    )
    np.testing.assert_allclose(found.value, (2 + 12 / 3) / 2, rtol=1e-5)


@pytest.mark.slow
def test_noise_of_the_trace_is_z_c_over_root_m_n():
    clip, noise_multiplier, runs = 3.0, 2.0, 200
    loud = [
        released(key, clip, noise_multiplier).value - released(key, clip).value
        for key in range(runs)
    ]
    expected = noise_multiplier * clip / (np.sqrt(16) * N)
    measured = np.sqrt(np.mean(np.square(loud)))
    # The standard error of a standard deviation is 1 / sqrt(2 n) of it.
    assert abs(measured / expected - 1) < 4 / np.sqrt(2 * runs)
    np.testing.assert_allclose(
        released(0, clip, noise_multiplier).stderr, expected, rtol=1e-6
    )


@pytest.mark.parametrize("num_probes", [1, pytest.param(64, marks=pytest.mark.slow)])
def test_price_does_not_depend_on_the_number_of_probes(num_probes):
    one = released(noise_multiplier=2.0)
    other = released(noise_multiplier=2.0, num_probes=num_probes)
    assert one.event == other.event
    np.testing.assert_allclose(
        one.stderr * 4, other.stderr * np.sqrt(num_probes), rtol=1e-6
    )


@pytest.mark.slow
def test_spread_over_probes_is_the_error_of_noise_and_probes_together():
    """Over runs with other keys, the value scatters as one run's spread says."""
    runs = [released(key, 20.0, 1.0) for key in range(200)]
    scatter = np.std([run.value for run in runs])
    said = [np.std(np.asarray(run.per_probe), ddof=1) / 4 for run in runs]
    assert abs(scatter / np.sqrt(np.mean(np.square(said))) - 1) < 4 / np.sqrt(400)
    # Noise alone is less.
    assert scatter > 1.5 * runs[0].stderr


@pytest.mark.slow
def test_probes_are_a_function_of_the_key_alone_and_independent_of_the_noise():
    np.testing.assert_array_equal(released(3).per_probe, released(3).per_probe)
    assert not np.array_equal(released(3).per_probe, released(4).per_probe)
    noise = np.asarray(pure_noise("trace", 3).per_probe)
    probed = np.asarray(released(3, num_probes=noise.size).per_probe)
    assert abs(np.corrcoef(noise, probed)[0, 1]) < 5 / np.sqrt(noise.size)


def test_parameters_in_half_precision_are_worked_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    found, expected = (
        private_trace(
            logistic,
            params,
            Private(data()),
            l2_norm_clip=100.0,
            noise_multiplier=0.5,
            key=0,
        )
        for params in (half, wide)
    )
    assert found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)


def test_what_is_no_loss_of_one_example_is_refused():
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "key": 0}
    x = Private(jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="scalar"):
        private_trace(lambda w, x: w * x, jnp.ones(3), x, **options)
    with pytest.raises(TypeError, match="params"):
        private_trace(quadratic, jnp.arange(3), x, **options)
    with pytest.raises(ValueError, match="num_probes"):
        private_trace(quadratic, jnp.ones(3), x, num_probes=0, **options)


def test_a_loss_that_is_differentiated_backward_only_gives_the_same():
    @jax.custom_vjp
    def softplus(x):
        return jnp.logaddexp(0.0, x)

    softplus.defvjp(lambda x: (softplus(x), x), lambda x, g: (g * jax.nn.sigmoid(x),))

    def loss(params, x, y):
        logit = jnp.vdot(params["w"], x) + params["b"]
        return softplus(logit) - y * logit

    options = {"l2_norm_clip": 2.0, "noise_multiplier": 1.0, "key": 3}
    found, expected = (
        private_trace(fn, PARAMS, Private(data()), **options) for fn in (loss, logistic)
    )
    np.testing.assert_allclose(found.per_probe, expected.per_probe, rtol=1e-5)
