"""Adam with the noise's variance taken off its second moment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.mechanism import DPSGD
from dpjax.optimizers import corrected_adam, scale_by_corrected_adam

SIZE = 4000


def run(optimizer, gradient, stddev, steps, seed=0):
    """Return the last update and state after private averages of one gradient."""

    @jax.jit
    def step(state, key):
        noisy = gradient + stddev * jax.random.normal(key, (SIZE,))
        return optimizer.update(noisy, state)[::-1]

    state = optimizer.init(jnp.zeros(SIZE))
    return jax.lax.scan(step, state, jax.random.split(jax.random.key(seed), steps))


@pytest.mark.parametrize("signal", [0.5, 2.0])
def test_the_second_moment_is_that_of_the_gradients_and_not_of_the_noise(signal):
    adam = scale_by_corrected_adam(1.0, b1=0.999)
    _, updates = run(adam, signal, 1.0, 3000)
    # m / sqrt(v) is about 1 where both are the gradient's; Adam's own falls short.
    assert np.median(updates[-1]) == pytest.approx(1, rel=0.06)
    _, plain = run(optax.scale_by_adam(0.999), signal, 1.0, 3000)
    expected = signal / np.sqrt(1 + signal**2)
    assert np.median(plain[-1]) == pytest.approx(expected, rel=0.03)


def test_without_noise_it_is_adam():
    corrected = scale_by_corrected_adam(0.0, floor=1e-16)
    plain = optax.scale_by_adam(eps=0.0)
    gradient = jnp.linspace(-1, 1, SIZE) + 2e-4
    _, found = run(corrected, gradient, 0.0, 20)
    _, expected = run(plain, gradient, 0.0, 20)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_updates_of_nothing_but_noise_are_bounded_by_the_floor():
    adam = scale_by_corrected_adam(1.0, b1=0.0, b2=0.99, floor=0.25)
    _, updates = run(adam, 0.0, 1.0, 500)
    assert float(jnp.abs(updates).max()) <= 6.0 / 0.5


def test_the_learning_rate_and_the_dtype_are_kept():
    adam = corrected_adam(optax.constant_schedule(0.5), 0.1)
    params = {"w": jnp.zeros(3, jnp.bfloat16)}
    grads = {"w": jnp.ones(3, jnp.bfloat16)}
    updates, state = adam.update(grads, adam.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16
    assert state[0].nu["w"].dtype == jnp.float32
    assert float(updates["w"][0]) == pytest.approx(-0.5 / np.sqrt(0.99), rel=1e-2)


def test_a_mechanism_knows_the_noise_of_its_average():
    plan = DPSGD(
        num_examples=100,
        expected_batch_size=20,
        num_steps=3,
        l2_norm_clip={"a": 0.3, "b": 0.4},
        noise_multiplier=2.0,
    )
    assert plan.noise_stddev == pytest.approx(2.0 * 0.5 / 20)
    corrected_adam(0.1, plan.noise_stddev)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"noise_stddev": -1.0}, "noise_stddev"),
        ({"noise_stddev": 0.0}, "floor"),
        ({"noise_stddev": 1.0, "b1": 1.0}, "b1"),
        ({"noise_stddev": 1.0, "b2": -0.1}, "b2"),
        ({"noise_stddev": 1.0, "floor": 0.0}, "floor"),
    ],
)
def test_settings_out_of_range_are_refused(options, name):
    with pytest.raises(ValueError, match=f"got {name}="):
        scale_by_corrected_adam(**options)
