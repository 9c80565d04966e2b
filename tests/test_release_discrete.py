import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax import accounting
from dpjax.curvature.sources import Private, Public
from dpjax.noise import EntropyError, entropy
from dpjax.release.discrete import private_discrete_mean

SETTINGS = {
    "l2_norm_clip": 1.0,
    "noise_multiplier": 1.0,
    "granularity": 2.0**-6,
    "key": 0,
}


def identity(_, row):
    return row


def release(rows, function=identity, **options):
    settings = SETTINGS | options
    return private_discrete_mean(function, None, Private(rows), **settings)


def noiseless(rows, function=identity, **options):
    """Return the sum in steps of the grid: the noise of one key is always the same."""
    options = {"expected_batch_size": 1.0} | options
    empty = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:0], rows)
    with_rows = release(rows, function, **options)
    without = release(empty, function, **options | {"mask": None})
    return jax.tree.map(np.subtract, with_rows.integers, without.integers)


def length(tree):
    entries = [int(n) for leaf in jax.tree.leaves(tree) for n in np.ravel(leaf)]
    return math.sqrt(sum(n**2 for n in entries))


def random_rows(batch, size, scale=1.0):
    return scale * jax.random.normal(jax.random.key(7), (batch, size))


HOSTILE = {
    "large": np.full(9, 1e30),
    "largest": np.full(9, 3e38),
    "tiny": np.full(9, 1e-40),
    "nan": np.r_[np.nan, np.ones(8)],
    "inf": np.r_[np.ones(8), np.inf],
    "zero": np.zeros(9),
    "ordinary": np.arange(9.0),
    "just above half a step": np.full(9, 2.0**-7 * 1.001),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("granularity", [2.0**-3, 2.0**-6, 0.01, 1e-5])
def test_adding_or_removing_one_example_moves_integers_by_the_sensitivity(
    name, granularity
):
    rows = random_rows(5, 9).at[2].set(HOSTILE[name].astype(np.float32))
    with_it = noiseless(rows, granularity=granularity)
    without = noiseless(jnp.delete(rows, 2, axis=0), granularity=granularity)
    stated = 1.0 / granularity + 1.5
    moved = length(with_it - without)
    assert moved <= stated
    assert moved == length(noiseless(rows[2:3], granularity=granularity))
    if name in ("nan", "inf", "tiny", "zero"):
        assert moved == 0
    if name == "large":  # Norms beyond float32 count as not finite.
        assert moved >= stated - 3.5


@pytest.mark.parametrize("name", HOSTILE)
def test_replacing_one_example_moves_integers_by_twice_the_sensitivity(name):
    rows = random_rows(4, 9)
    worst = rows.at[1].set(HOSTILE[name].astype(np.float32))
    other = rows.at[1].set(-HOSTILE["large"].astype(np.float32))
    assert length(noiseless(worst) - noiseless(other)) <= 2 * (64 + 1.5)


def test_the_bound_is_reached_up_to_a_step_when_all_coordinates_round_up():
    # Sixteen coordinates of k + 1/2 - 1/100 steps and more: the worst for rounding.
    step = 2.0**-4
    row = np.full((1, 16), step * (3.5 + 1e-3), np.float32)
    clip = float(np.linalg.norm(row)) * (1 + 1e-5)
    moved = length(noiseless(row, l2_norm_clip=clip, granularity=step))
    assert moved == 4 * 4.0 > clip / step
    assert moved <= clip / step + 2.0


def test_sums_do_not_depend_on_the_order_or_on_microbatches():
    rows = random_rows(5, 9, 3.0)
    whole = noiseless(rows)
    assert whole.any()
    for other in (
        noiseless(rows[::-1]),
        noiseless(rows, microbatch_size=4),
        noiseless(rows, microbatch_size=1),
        noiseless(rows[:4]) + noiseless(rows[4:]),
    ):
        np.testing.assert_array_equal(whole, other)


def test_masked_examples_contribute_nothing():
    rows = random_rows(5, 9).at[4].set(jnp.nan)
    mask = jnp.array([True, True, True, True, False])
    np.testing.assert_array_equal(noiseless(rows, mask=mask), noiseless(rows[mask]))


def test_trees_of_several_leaves_are_clipped_and_noised_together():
    rows = {"a": random_rows(4, 3, 10.0), "b": (random_rows(4, 1, 10.0)[:, 0],)}
    one = noiseless(jax.tree.map(lambda leaf: leaf[:1], rows))
    assert 64 - 1.0 <= length(one) <= 64 + 1.0
    released = release(rows)
    assert jax.tree.map(np.shape, released.value) == {"a": (3,), "b": ((),)}


@pytest.mark.parametrize("multiplier", [0.7, 2.0])
def test_the_noise_that_is_claimed_is_the_noise_that_is_released(multiplier):
    empty = jnp.zeros((0, 40_000))
    released = release(
        empty,
        noise_multiplier=multiplier,
        granularity=2.0**-10,
        expected_batch_size=50,
    )
    sensitivity = 2**10 + 100
    spread = released.integers.std() / sensitivity
    rho = released.event.rho
    assert rho == 0.5 / multiplier**2
    for value in (spread, math.sqrt(0.5 / rho)):
        assert abs(value / multiplier - 1) < 5 / math.sqrt(2 * 40_000)
    stderr = np.asarray(released.value, np.float64).std()
    assert abs(stderr / float(released.stderr) - 1) < 5 / math.sqrt(2 * 40_000)


def test_the_value_is_the_integers_in_units_over_the_public_number():
    released = release(random_rows(5, 9), expected_batch_size=7.0)
    wanted = released.integers * released.granularity / 7.0
    np.testing.assert_allclose(released.value, wanted, rtol=1e-6)
    assert float(release(random_rows(5, 9)).stderr) == pytest.approx(
        (1 + 1.5 * 2.0**-6) / 5, rel=1e-6
    )


def test_the_mean_is_unbiased_up_to_the_rounding_of_examples():
    rows = random_rows(2000, 3, 0.2)
    released = release(rows, noise_multiplier=1e-3)
    assert jnp.abs(released.value - rows.mean(axis=0)).max() < 2.0**-7


@pytest.mark.parametrize("multiplier", [0.8, 3.0, 20.0])
def test_epsilon_is_that_of_the_gaussian_of_the_same_noise(multiplier):
    event = release(random_rows(5, 9), noise_multiplier=multiplier).event
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    renyi, twin = (
        accounting.event_epsilon(e, 1e-5, accountant="rdp") for e in (event, gaussian)
    )
    assert renyi == pytest.approx(twin, rel=1e-9)
    exact = accounting.event_epsilon(gaussian, 1e-5)
    assert exact < accounting.event_epsilon(event, 1e-5) < 1.3 * exact


def test_a_ledger_with_a_budget_takes_the_event():
    ledger = accounting.PrivacyLedger(accounting.Budget(epsilon=3.0, delta=1e-6))
    event = release(random_rows(5, 9), noise_multiplier=5.0).event
    for _ in range(4):
        ledger.spend(event, "statistics")
    four = accounting.event_epsilon(dp_accounting.ZCDpEvent(4 * 0.02), 1e-6)
    assert ledger.epsilon(1e-6) == pytest.approx(four, rel=1e-6)
    with pytest.raises(accounting.BudgetExceeded):
        ledger.spend(release(random_rows(5, 9)).event, "statistics")


def test_keys_decide_the_noise_and_none_takes_the_operating_system_s(monkeypatch):
    rows = random_rows(2, 500)
    one, same, other = (release(rows, key=key).integers for key in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.mean(one == other) < 0.1
    fresh = [release(rows, key=None).integers for _ in "12"]
    assert np.mean(fresh[0] == fresh[1]) < 0.1

    def fail(count):
        raise OSError(count)

    monkeypatch.setattr(entropy.os, "urandom", fail)
    with pytest.raises(EntropyError):
        release(rows, key=None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"granularity": 0.0}, ValueError, "granularity"),
        ({"granularity": 1e-9}, ValueError, "2\\*\\*26 steps"),
        ({"noise_multiplier": 0.0}, ValueError, "noise_multiplier"),
        ({"l2_norm_clip": -1.0}, ValueError, "l2_norm_clip"),
        ({"mask": jnp.ones(5, bool)}, ValueError, "expected_batch_size"),
        ({"microbatch_size": 0}, ValueError, "microbatch_size"),
    ],
)
def test_settings_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        release(random_rows(5, 9), **options)


def test_what_is_not_private_or_not_real_is_refused():
    with pytest.raises(TypeError, match="Private"):
        private_discrete_mean(identity, None, Public(jnp.ones(3)), **SETTINGS)
    with pytest.raises(TypeError, match="dtype"):
        release(jnp.ones((3, 2), int))
    with pytest.raises(TypeError, match="real leaves"):
        release(jnp.ones((3, 2), jnp.complex64))
    with pytest.raises(ValueError, match="expected_batch_size"):
        release(jnp.ones((0, 2)))
