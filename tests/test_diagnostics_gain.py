"""What one noisy step is expected to do to the loss."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnosed import (
    EIGENVALUES,
    clipped,
    clipped_sum,
    examples,
    params,
    quadratic,
    rows,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpjax.curvature import Private, Public
from dpjax.diagnostics import step_gain

TRACE = float(EIGENVALUES.sum())
CLIP, SIGMA, RATE = 2.0, 0.8, 0.1


def gain(x, source=Public, mask=None, rate=RATE, sigma=SIGMA, **options):
    grads = clipped(quadratic, params(), x, CLIP, mask)
    return step_gain(
        quadratic,
        params(),
        source(x),
        grads,
        noise_multiplier=sigma,
        learning_rate=rate,
        trace=TRACE,
        mask=mask,
        **options,
    )


def mean_loss(points, x):
    """Return the mean loss at points (n, 5), float64."""
    x = np.asarray(x, float)
    return np.mean(
        [np.sum(EIGENVALUES * (points - row) ** 2, axis=-1) / 2 for row in x], axis=0
    )


def closed_form(x, divisor, rate=RATE, sigma=SIGMA):
    """Return slope, curvature along the clipped gradient, and noise variance."""
    raw = rows(params(), x)
    step = clipped_sum(raw, CLIP) / divisor
    slope, bend = raw.mean(axis=0) @ step, EIGENVALUES @ step**2
    return slope, bend, (sigma * CLIP / divisor) ** 2


@pytest.mark.parametrize("divisor", [None, 9.0])
def test_gain_of_a_quadratic_has_its_closed_form(divisor):
    x = examples()
    slope, bend, variance = closed_form(x, divisor or 6)
    found = gain(x, expected_batch_size=divisor)
    change = -RATE * slope + RATE**2 * (bend + variance * TRACE) / 2
    np.testing.assert_allclose(found.loss_change, change, rtol=1e-4)
    cost = RATE**2 * variance * TRACE / 2
    np.testing.assert_allclose(found.noise_cost, cost, rtol=1e-5)
    best = slope / (bend + variance * TRACE)
    np.testing.assert_allclose(found.best_learning_rate, best, rtol=1e-4)


def test_forecast_agrees_with_steps_that_are_taken():
    x, draws = examples(), 200_000
    forecast = gain(x)
    step = clipped_sum(rows(params(), x), CLIP) / 6
    noise = np.random.default_rng(5).normal(size=(draws, 5)) * SIGMA * CLIP / 6
    point = np.asarray(params()["w"], float)
    changes = mean_loss(point - RATE * (step + noise), x) - mean_loss(point, x)
    standard_error = changes.std() / np.sqrt(draws)
    assert abs(float(forecast.loss_change) - changes.mean()) < 4 * standard_error
    # Without the cost of the noise, the forecast would be told apart.
    assert forecast.noise_cost > 20 * standard_error


@pytest.mark.slow
def test_no_learning_rate_is_better_than_the_best():
    x = examples()
    best = float(gain(x).best_learning_rate)
    least = gain(x, rate=best).loss_change
    for other in (0.8 * best, 0.99 * best, 1.01 * best, 1.2 * best):
        assert gain(x, rate=other).loss_change > least


def test_without_noise_nothing_is_paid_for_it():
    assert gain(examples(), sigma=0.0).noise_cost == 0


def test_no_step_changes_nothing():
    found = gain(examples(), rate=0.0)
    assert found.loss_change == found.noise_cost == 0


def test_best_learning_rate_of_a_flat_loss_is_infinite():
    def flat(w, x):
        return jnp.vdot(w, x)

    x = examples()
    found = step_gain(
        flat,
        jnp.zeros(5),
        Public(x),
        clipped(flat, jnp.zeros(5), x),
        noise_multiplier=1.0,
        learning_rate=0.1,
        trace=0.0,
    )
    assert found.best_learning_rate == np.inf
    assert np.isfinite(found.loss_change)


@pytest.mark.parametrize(
    "broken", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)]
)
def test_padding_and_examples_that_are_not_finite_are_left_out(broken):
    x = examples(8)
    expected = gain(x[1:7], expected_batch_size=10.0)
    mask = jnp.arange(8) < 7
    poisoned = x.at[0].set(broken).at[7].set(jnp.nan)
    found = gain(poisoned, mask=mask, expected_batch_size=10.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected
    )


@pytest.mark.parametrize(
    ("source", "event"),
    [
        (Public, dp_accounting.NoOpDpEvent()),
        (Private, dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_gain_is_the_same_under_jit_and_keeps_the_event_of_its_source(source, event):
    def run(x, rate, sigma):
        return gain(x, source, rate=rate, sigma=sigma)

    eager, compiled = run(examples(), RATE, SIGMA), jax.jit(run)(examples(), 0.1, 0.8)
    assert eager.event == compiled.event == event
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), eager, compiled
    )


@pytest.mark.parametrize("name", ["rate", "sigma", "expected_batch_size"])
def test_settings_out_of_range_are_refused(name):
    full = {"rate": "learning_rate", "sigma": "noise_multiplier"}
    with pytest.raises(ValueError, match=full.get(name, name)):
        gain(examples(), **{name: -1.0})


def test_mask_needs_a_public_divisor():
    with pytest.raises(ValueError, match="expected_batch_size"):
        gain(examples(), mask=jnp.ones(6, bool))


def test_batch_that_is_spread_over_devices_gives_the_same_forecast():
    rows = NamedSharding(Mesh(jax.devices(), "batch"), PartitionSpec("batch"))
    spread = jax.device_put(examples(), rows)
    assert len(spread.sharding.device_set) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        gain(spread),
        gain(examples()),
    )
