"""Bounds from the guesses about one run's canaries."""

import dp_accounting
import numpy as np
import pytest
from scipy import special, stats

from dpjax.auditing import one_run, one_run_epsilon


def bound(m, r, v, delta, method="dp", significance=0.05, **options):
    return one_run_epsilon(
        num_canaries=m,
        num_guesses=r,
        num_correct=v,
        delta=delta,
        significance=significance,
        method=method,
        **options,
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((100, 100, 75, 0), 0.7022139309),
        ((100, 100, 75, 1e-4), 0.6994668132),
        ((1000, 100, 75, 1e-4), 0.6729846641),
        ((100_000, 1510, 1439, 1e-5), 2.6758510077),
        ((10_000, 10_000, 9820, 1e-5), 3.8713169301),
        ((1000, 1000, 800, 1e-5), 1.2539840943),
        ((1000, 200, 180, 1e-5), 1.7962850707),
        ((5000, 500, 450, 1e-5), 1.9414204321),
        ((10_000, 2000, 1700, 1e-6), 1.6302753939),
        ((1000, 1000, 600, 1e-5), 0.2972269537),
        ((1000, 1000, 520, 1e-5), 0.0),
        ((1000, 50, 49, 1e-3), 0.0),
    ],
)
def test_dp_bounds_are_those_of_steinke_et_al(counts, expected):
    assert bound(*counts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("canaries", "most"),
    [(16, 1.5798), (100, 3.4902), (256, 4.4352), (512, 5.1245), (1000, 5.7823)],
)
def test_a_perfect_guesser_finds_as_much_as_canaries_allow(canaries, most):
    assert bound(canaries, canaries, canaries, 1e-5) == pytest.approx(most, abs=5e-5)
    closed = -np.log(0.05 ** (-1 / canaries) - 1)
    assert bound(canaries, canaries, canaries, 0) == pytest.approx(closed, rel=1e-9)


def test_the_p_value_is_the_one_of_the_paper():
    guesses = one_run.Guesses(100, 100, 75)
    assert one_run.p_value(np.log(3), guesses, 0) == pytest.approx(0.5534708238)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((100_000, 1500, 1429, 1e-5), 3.299235),
        ((100, 100, 100, 1e-5), 8.216186),
        ((1000, 1000, 800, 1e-5), 2.333244),
        ((1000, 200, 180, 1e-5), 2.901243),
        ((5000, 1000, 900, 1e-5), 3.022851),
        ((10_000, 2000, 1700, 1e-6), 2.659543),
        ((1000, 50, 49, 1e-3), 2.318528),
    ],
)
def test_fdp_bounds_are_those_of_mahloujifar_et_al(counts, expected):
    assert bound(*counts, "fdp") == pytest.approx(expected, abs=2e-6)


def gaussian_guesses(rng, mu, canaries, guesses, trials):
    """Simulate runs that add N(0, 1) to mu for each canary that is in: right guesses.

    The highest scores are guessed in, the lowest out, half of the guesses each.
    """
    coins = rng.random((trials, canaries)) < 0.5
    scores = rng.normal(size=coins.shape) + mu * coins
    order = np.argsort(scores, axis=1)
    half = guesses // 2
    ranked = np.take_along_axis(coins, order, axis=1)
    return (~ranked[:, :half]).sum(1) + ranked[:, -half:].sum(1)


@pytest.mark.parametrize("method", ["dp", "fdp"])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_bound_is_too_high_no_more_often_than_stated(method, mu):
    delta, trials = 1e-5, 2000
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    counts = gaussian_guesses(np.random.default_rng(1), mu, 200, 60, trials)
    values, times = np.unique(counts, return_counts=True)
    found = np.array([bound(200, 60, int(v), delta, method) for v in values])
    wrong = times[found > truth].sum()
    assert wrong <= stats.binom.isf(1e-4, trials, 0.05)
    # Not for want of power: with a promise of a fifth of it, many runs are caught.
    assert times[found > truth / 5].sum() > 0.3 * trials


def test_randomised_response_is_caught_at_the_nominal_level_and_no_more_often():
    # Here the theorem is tight: guesses are right with q, independently.
    epsilon, trials, guesses = 1.0, 20_000, 100
    rng = np.random.default_rng(2)
    counts = rng.binomial(guesses, special.expit(epsilon), trials)
    values, times = np.unique(counts, return_counts=True)
    found = np.array([bound(guesses, guesses, int(v), 0.0) for v in values])
    wrong = times[found > epsilon].sum()
    assert wrong <= stats.binom.isf(1e-4, trials, 0.05)
    assert wrong >= stats.binom.isf(1 - 1e-4, trials, 0.02)


def test_power_grows_with_what_is_there_and_with_the_guesses_of_either_side():
    rng, found = np.random.default_rng(3), []
    for mu in (0.5, 1.0, 2.0, 4.0):
        counts = gaussian_guesses(rng, mu, 1000, 300, 20)
        found.append(bound(1000, 300, int(np.median(counts)), 1e-5, "fdp"))
    assert np.all(np.diff(found) > 0)
    theory = [dp_accounting.get_epsilon_gaussian(1 / mu, 1e-5) for mu in (0.5, 4.0)]
    assert 0.2 * theory[0] < found[0] < theory[0]
    assert 0.2 * theory[1] < found[-1] < theory[1]


@pytest.mark.slow
def test_the_mechanisms_own_curve_gives_more_than_the_definition():
    def sampled(noise):
        step = dp_accounting.PoissonSampledDpEvent(
            0.1, dp_accounting.GaussianDpEvent(noise)
        )
        return dp_accounting.SelfComposedDpEvent(step, 200)

    own = bound(1000, 200, 180, 1e-5, "fdp", mechanism=sampled)
    assert bound(1000, 200, 180, 1e-5) < own
    gaussian = bound(
        1000, 200, 180, 1e-5, "fdp", mechanism=dp_accounting.GaussianDpEvent
    )
    # Tangents lie below the curve: a little less is found with them.
    closed = bound(1000, 200, 180, 1e-5, "fdp")
    assert 0.98 * closed < gaussian <= closed


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"m": 0}, "num_canaries"),
        ({"r": 101}, "num_guesses"),
        ({"r": 0}, "num_guesses"),
        ({"v": 51}, "num_correct"),
        ({"v": -1}, "num_correct"),
        ({"v": 3.5}, "num_correct"),
        ({"delta": 1.0}, "delta"),
        ({"delta": -1e-9}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"significance": 0.0}, "significance"),
        ({"significance": 1.0}, "significance"),
        ({"method": "renyi"}, "method"),
        ({"method": "fdp", "delta": 0.0}, "delta"),
        ({"mechanism": dp_accounting.GaussianDpEvent}, "method"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, name):
    settings = {"m": 100, "r": 50, "v": 40, "delta": 1e-5} | changes
    with pytest.raises((ValueError, TypeError), match=name):
        bound(**settings)
