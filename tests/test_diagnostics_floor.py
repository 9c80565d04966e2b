"""Where the noise of constant steps leaves the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnosed import EIGENVALUES

from dpjax.diagnostics import noise_floor

RATE, NOISE = 0.05, 0.4


def test_excess_loss_is_the_published_number_of_the_quadratic():
    floor = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=NOISE)
    np.testing.assert_allclose(floor.excess_loss, 0.010910, atol=5e-7)


def test_excess_loss_is_half_of_the_variances_weighed_by_the_eigenvalues():
    floor = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=NOISE)
    expected = np.sum(EIGENVALUES * np.asarray(floor.variance)) / 2
    np.testing.assert_allclose(floor.excess_loss, expected, rtol=1e-6)


def test_variance_is_a_fixed_point_of_the_step():
    variance = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=NOISE).variance
    stepped = (1 - RATE * EIGENVALUES) ** 2 * variance + (RATE * NOISE) ** 2
    np.testing.assert_allclose(stepped, variance, rtol=1e-6)


def test_simulated_descent_rests_where_it_says():
    runs, steps = 2_000, 1_500
    generator, w = np.random.default_rng(0), np.zeros((runs, 5))
    for _ in range(steps):
        noise = NOISE * generator.normal(size=w.shape)
        w = w - RATE * (EIGENVALUES * w + noise)
    losses = np.sum(EIGENVALUES * w**2, axis=1) / 2
    standard_error = losses.std() / np.sqrt(runs)
    floor = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=NOISE)
    assert abs(losses.mean() - float(floor.excess_loss)) < 4 * standard_error
    # Noise of 2/3 or 3/2 of the power would be told apart.
    assert floor.excess_loss / 3 > 4 * standard_error


@pytest.mark.parametrize(
    ("eigenvalue", "variance", "excess"),
    [
        (0.0, np.inf, 0.0),
        (-0.1, np.inf, np.inf),
        (40.0, np.inf, np.inf),
        (41.0, np.inf, np.inf),
        (20.0, 0.05 * 0.16 / 20, 0.05 * 0.16 / 2),
    ],
)
def test_edges_are_as_the_table_says(eigenvalue, variance, excess):
    floor = noise_floor(jnp.array([eigenvalue]), learning_rate=RATE, noise_std=NOISE)
    np.testing.assert_allclose(floor.variance, [variance], rtol=1e-5)
    np.testing.assert_allclose(floor.excess_loss, excess, rtol=1e-5)


def test_no_noise_leaves_no_excess():
    floor = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=0.0)
    assert floor.excess_loss == 0


def test_floor_is_the_same_under_jit():
    eager = noise_floor(EIGENVALUES, learning_rate=RATE, noise_std=NOISE)
    compiled = jax.jit(
        lambda values, rate, std: noise_floor(values, learning_rate=rate, noise_std=std)
    )(EIGENVALUES, RATE, NOISE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), eager, compiled
    )


@pytest.mark.parametrize("options", [{"learning_rate": 0.0}, {"noise_std": -1.0}])
def test_settings_out_of_range_are_refused(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        noise_floor(
            EIGENVALUES, **{"learning_rate": RATE, "noise_std": NOISE} | options
        )
