"""The privacy loss of a Gaussian release in one random step of many."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from scipy import integrate, stats

from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting import (
    AccountingError,
    event_curve,
    event_delta,
    event_epsilon,
    exact_epsilon,
)
from dpjax.accounting.events import NON_PRIVATE, Relation, take_apart
from dpjax.accounting.laws.allocated import AllocatedGaussian
from dpjax.accounting.ledgers import event_json

GAUSSIAN = dp_accounting.GaussianDpEvent
REMOVED, ADDED = 0, 1


def composed(noise, steps, cycles=1, size=1):
    step = RandomAllocationDpEvent(steps, size, GAUSSIAN(noise))
    return dp_accounting.SelfComposedDpEvent(step, cycles)


def gaussian_delta(noise, epsilon):
    upper = stats.norm.cdf(0.5 / noise - epsilon * noise)
    return upper - math.exp(epsilon) * stats.norm.cdf(-0.5 / noise - epsilon * noise)


def of_two_steps(noise, epsilon, side):
    """Return the delta of one direction for 1 of 2 steps, by quadrature.

    Given the first step's ratio y, the sum passes a limit where the second's passes
    k = 2 limit - y: E (Y - k)_+ = P(Y > k) - k Q(Y > k), a Gaussian's delta at log k.
    """
    limit = 2 * math.exp(epsilon if side == REMOVED else -epsilon)

    def paid(x):
        ratio = math.exp((x - 0.5) / noise**2)
        k = limit - ratio
        if k <= 0:
            call = 1 - k
        else:
            log_k = math.log(k)
            z = noise * log_k
            call = stats.norm.sf(z - 0.5 / noise) - k * stats.norm.sf(z + 0.5 / noise)
        # E (k - Y)_+ = E (Y - k)_+ - 1 + k.
        value = call if side == REMOVED else call - 1 + k
        return value / 2 * stats.norm.pdf(x, scale=noise)

    edge = noise**2 * math.log(limit) + 0.5
    ends = -12 * noise, min(edge, 12 * noise), 12 * noise
    parts = [
        integrate.quad(paid, low, high, epsabs=1e-14, limit=200)[0]
        for low, high in itertools.pairwise(ends)
        if high > low
    ]
    scale = 1 if side == REMOVED else math.exp(epsilon)
    return scale * sum(parts)


def of_side(noise, steps, epsilon, side):
    losses, log_weights = AllocatedGaussian(noise, steps).nodes(1e-14)[side]
    kept = losses > epsilon
    return float(np.exp(log_weights[kept]) @ -np.expm1(epsilon - losses[kept]))


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("side", [REMOVED, ADDED])
def test_two_steps_cost_what_a_quadrature_says(noise, epsilon, side):
    truth = of_two_steps(noise, epsilon, side)
    found = of_side(noise, 2, epsilon, side)
    assert found >= truth - 1e-12
    assert found == pytest.approx(truth, rel=1e-3, abs=1e-11)
    # With noise larger by a half, this would not hold.
    assert found != pytest.approx(of_two_steps(1.5 * noise, epsilon, side), rel=0.1)


@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("side", [REMOVED, ADDED])
def test_one_step_is_a_gaussian_release(noise, epsilon, side):
    truth = gaussian_delta(noise, epsilon)
    found = of_side(noise, 1, epsilon, side)
    assert truth - 1e-12 <= found < truth * (1 + 1e-3) + 1e-12


def least_delta(noise, steps, epsilon):
    """Return the most that a limit on the largest output tells: a lower bound."""
    limits = np.linspace(-5 * noise, 1 + 9 * noise, 4001)
    below = stats.norm.logcdf(limits / noise)
    plain = -np.expm1(steps * below)
    shifted = -np.expm1((steps - 1) * below + stats.norm.logcdf((limits - 1) / noise))
    return float((shifted - math.exp(epsilon) * plain).max())


@pytest.mark.parametrize("noise", [0.35, 1.0])
@pytest.mark.parametrize("steps", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_the_account_is_above_what_an_attack_finds(noise, steps, epsilon):
    found = of_side(noise, steps, epsilon, REMOVED)
    least = least_delta(noise, steps, epsilon)
    assert found > least - 1e-12
    # The attack is no trifle: it tells the noise from one that is a half larger.
    larger = of_side(1.5 * noise, steps, epsilon, REMOVED)
    assert least > larger or least < 1e-6


@pytest.mark.parametrize(("noise", "steps"), [(0.5, 30), (4.0, 7)])
def test_masses_and_means_are_whole(noise, steps):
    for interval in (1e-3, 0.02):
        for law in AllocatedGaussian(noise, steps).grid_laws(interval, 1e-12):
            losses = interval * (law.lowest + np.arange(law.masses.size))
            assert law.masses.sum() + law.infinity == pytest.approx(1, abs=1e-10)
            other = law.masses @ np.exp(-losses)
            assert other == pytest.approx(1, abs=1e-10)
            assert law.infinity < 1e-12


def test_the_distance_is_not_below_that_of_the_laws():
    for noise, steps in [(0.3, 5), (1.0, 1), (1.0, 20), (10.0, 3)]:
        truth = of_side(noise, steps, 0.0, REMOVED)
        found = AllocatedGaussian(noise, steps).distance
        assert truth * (1 - 1e-9) <= found < 1.5 * truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "shuffled", "poisson"),
    [(4.0, 0.383405, 0.006475), (10.0, 0.0100362, 2.487e-5)],
)
def test_balls_in_bins_cost_less_than_what_is_published_of_the_others(
    epsilon, shuffled, poisson
):
    # Of 1000 steps at noise 0.35: google-research's dpsgd_batch_sampler_accounting has
    # a lower bound for a shuffle, and Poisson samples; no sampler costs less than the
    # attack on the largest output finds.
    found = event_delta(composed(0.35, 1000), epsilon)
    assert least_delta(0.35, 1000, epsilon) < found < poisson < shuffled


@pytest.mark.slow
def test_jax_privacy_finds_the_same_by_monte_carlo():
    # Its balls in bins keep their throws: 4 epochs of 6 steps at noise 2 are one at 1.
    selection = pytest.importorskip("jax_privacy.batch_selection")
    theirs = pytest.importorskip(
        "jax_privacy.experimental.monte_carlo.sample_generation"
    )
    strategy, source = selection.BallsInBinsSampling(24, 6), np.random.default_rng(3)
    settings = {"seed": source, "positive_sample": True}
    losses = np.array(
        [
            theirs.get_privacy_loss_sample(strategy, 2.0, np.ones(1), **settings)[0]
            for _ in range(20_000)
        ]
    )
    paid = -np.expm1(np.minimum(0.5 - losses, 0.0))
    error = paid.std() / math.sqrt(paid.size)
    found = event_delta(RandomAllocationDpEvent(6, 1, GAUSSIAN(1.0)), 0.5)
    assert abs(paid.mean() - found) < 5 * error
    assert abs(paid.mean() - 1.5 * found) > 5 * error


@pytest.mark.parametrize("cycles", [1, 5])
def test_more_steps_cost_less_and_more_cycles_more(cycles):
    costs = [event_epsilon(composed(1.0, t, cycles), 1e-5) for t in (2, 5, 20)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < event_epsilon(composed(1.0, 2, cycles + 1), 1e-5)
    plain = dp_accounting.SelfComposedDpEvent(GAUSSIAN(1.0), cycles)
    assert costs[0] < event_epsilon(plain, 1e-5)


@pytest.mark.parametrize(
    ("noise", "steps", "cycles", "delta"),
    [(1.0, 30, 10, 1e-5), (0.35, 50, 1, 1e-6)],
)
def test_a_cycle_costs_less_than_poisson_samples_of_the_same_rate(
    noise, steps, cycles, delta
):
    # What Chua et al. and Feldman and Shenfeld find wherever they look.
    found = event_epsilon(composed(noise, steps, cycles), delta)
    poisson = exact_epsilon(
        noise_multiplier=noise,
        sampling_prob=1 / steps,
        num_steps=steps * cycles,
        delta=delta,
    )
    assert 0.5 * poisson < found < poisson


@pytest.mark.slow
def test_the_error_tells_how_much_a_finer_grid_would_gain():
    event = composed(1.0, 60, 3)
    found = event_epsilon(event, 1e-5)
    pair = AllocatedGaussian(1.0, 60, points=6000)
    losses, log_weights = pair.nodes(1e-12)[REMOVED]
    single = event_epsilon(composed(1.0, 60), 1e-5)
    kept = losses > single
    fine = float(np.exp(log_weights[kept]) @ -np.expm1(single - losses[kept]))
    assert fine < 1e-5
    assert fine > 1e-5 * (1 - 10 * single.error)
    assert found.method == "pld"
    assert 0 < found.error < 2e-3


def test_several_participations_cost_no_more_than_that_many_groups():
    one = event_epsilon(composed(1.0, 20, 3), 1e-5)
    assert event_epsilon(composed(1.0, 60, size=3), 1e-5) == one
    assert event_epsilon(composed(1.0, 62, size=3), 1e-5) == one
    whole = event_epsilon(composed(2.0, 4, size=4), 1e-5)
    assert whole == event_epsilon(GAUSSIAN(1.0), 1e-5)


def test_replacing_counts_no_amplification():
    found = event_epsilon(composed(2.0, 50, 4), 1e-5, relation=Relation.REPLACE_ONE)
    assert found == event_epsilon(GAUSSIAN(1.0), 1e-5, relation=Relation.REPLACE_ONE)


def test_zeroing_out_costs_what_removing_does():
    event = composed(1.0, 30, 2)
    found = event_epsilon(event, 1e-5, relation=Relation.REPLACE_SPECIAL)
    assert found == event_epsilon(event, 1e-5)


def test_the_renyi_accountant_knows_the_step():
    found = event_epsilon(composed(2.0, 50, 4), 1e-5, accountant="rdp")
    plain = event_epsilon(GAUSSIAN(1.0), 1e-5, accountant="rdp")
    assert found == pytest.approx(plain, rel=1e-9)


def test_delta_and_curves_agree_with_epsilon():
    event = composed(1.0, 20, 10)
    found = event_epsilon(event, 1e-5)
    assert event_delta(event, found) == pytest.approx(1e-5, rel=2e-3)
    curve = event_curve(event.event, 1e-5, steps=[1, 4, 10])
    assert curve[-1] == pytest.approx(found, abs=2 * found.error)
    assert list(curve) == sorted(curve)


@pytest.mark.parametrize("noise", [0.01, 0.06])
def test_hardly_any_noise_has_a_bound(noise):
    assert 0 < event_epsilon(composed(noise, 20), 1e-5) < 1 / noise**2


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (composed(0.0, 5), [(NON_PRIVATE, 1)]),
        (composed(math.inf, 5), []),
        (composed(2.0, 4, 1, 4), [(GAUSSIAN(1.0), 1)]),
    ],
)
def test_edges_are_what_they_are(event, parts):
    assert take_apart(event) == parts


@pytest.mark.parametrize(("steps", "size"), [(0, 1), (3, 4), (3, 0)])
def test_participations_out_of_range_are_refused(steps, size):
    with pytest.raises(ValueError, match=r"RandomAllocationDpEvent\.num_"):
        take_apart(composed(1.0, steps, size=size))


def test_other_releases_in_random_steps_are_refused():
    event = RandomAllocationDpEvent(5, 1, dp_accounting.LaplaceDpEvent(1.0))
    with pytest.raises(AccountingError, match="Gaussian release inside of random"):
        event_epsilon(event, 1e-5)


def test_the_event_is_written_and_read_back():
    event = composed(1.1, 60, 10)
    assert event_json.from_json(event_json.to_json(event)) == event
