"""Numbers of the literature on who is sampled how: parts D1, D2 and D5 of the notes."""

import dp_accounting
import numpy as np
import pytest
from accounting_cases import sampled
from scipy import optimize, special

from dpjax import sampling
from dpjax.accounting import event_delta, event_epsilon
from dpjax.accounting.events import Relation
from dpjax.mechanism import DPSGD

GAUSSIAN = dp_accounting.GaussianDpEvent

# D1, after Chua et al. (2024): one epoch of T batches: T, delta, noise; epsilon of
# Poisson sampling, exact and by Renyi divergences; a lower bound for shuffled batches;
# epsilon of batches in a fixed order.
EPOCH = [
    (100_000, 1e-6, 0.4, 2.998, 4.703, 14.451, 14.451),
    (100_000, 1e-6, 0.5, 0.4707, 2.486, 10.974, 10.997),
    (100_000, 1e-6, 0.6, 0.0718, 1.542, 8.320, 8.841),
    (100_000, 1e-6, 0.8, 0.0204, 0.786, 2.954, 6.312),
    (100_000, 1e-6, 1.0, 0.0131, 0.464, 0.463, 4.887),
    (100_000, 1e-6, 2.0, 0.0049, 0.140, 0.0012, 2.254),
    (1000, 1e-6, 0.35, 13.293, 15.93, 17.076, 17.076),
    (1000, 1e-6, 0.5, 4.235, 5.329, 10.997, 10.997),
    (1000, 1e-6, 1.0, 0.1855, 0.870, 3.724, 4.887),
    (10_000, 1e-5, 0.7, 0.0996, 1.101, 5.835, 6.652),
]
every_epoch = pytest.mark.parametrize(
    ("batches", "delta", "noise", "poisson", "renyi", "shuffled", "fixed"), EPOCH
)


def one_epoch(sampler, batches, noise):
    return DPSGD(
        num_examples=batches,
        expected_batch_size=1,
        num_steps=batches,
        l2_norm_clip=1.0,
        noise_multiplier=noise,
        sampler=sampler,
    )


def shuffled_at_least(batches, noise, delta):
    """Return an epsilon that shuffled batches have at least, from its formula.

    One example has the gradient 2, or 1, in the batch that it falls into; all the other
    batches have 0. The event is that the largest sum is above a bound.
    """
    bounds = np.linspace(-5 * noise, 2 + 12 * noise, 20_001)

    def above(mean):
        log_others = (batches - 1) * special.log_ndtr(bounds / noise)
        return -np.expm1(log_others + special.log_ndtr((bounds - mean) / noise))

    two, one = above(2.0), above(1.0)

    def excess(epsilon):
        return float(np.max(two - np.exp(epsilon) * one)) - delta

    return optimize.brentq(excess, 0, 60) if excess(0) > 0 else 0.0


@every_epoch
def test_batches_in_a_fixed_order_cost_what_is_published(
    batches, delta, noise, poisson, renyi, shuffled, fixed
):
    del poisson, renyi, shuffled
    for sampler in (sampling.Deterministic(), sampling.ShuffledEpochs()):
        found = one_epoch(sampler, batches, noise).epsilon(delta)
        assert found == pytest.approx(fixed, abs=6e-4)


@every_epoch
def test_shuffled_batches_are_accounted_for_above_what_they_are_known_to_cost(
    batches, delta, noise, poisson, renyi, shuffled, fixed
):
    del renyi, fixed, poisson
    known = shuffled_at_least(batches, noise, delta)
    assert known == pytest.approx(shuffled, abs=2e-3)
    plan = one_epoch(sampling.ShuffledEpochs(), batches, noise)
    assert plan.epsilon(delta) > known
    quoted = plan.epsilon_if_poisson(delta).if_it_were
    if noise < 1:
        assert quoted < shuffled


@every_epoch
def test_poisson_samples_cost_what_is_published(
    batches, delta, noise, poisson, renyi, shuffled, fixed
):
    del shuffled, fixed
    plan = one_epoch(sampling.Poisson(), batches, noise)
    digits = 6e-4 if poisson > 1 else 6e-5
    assert plan.epsilon(delta) == pytest.approx(poisson, abs=digits)
    # By the best of all orders, where the published numbers have the best of a few.
    bound = plan.epsilon(delta, accountant="rdp")
    assert poisson < bound < renyi * 1.001


# The example of the authors' code: noise 0.35, 1000 batches.
@pytest.mark.parametrize(
    ("epsilon", "fixed", "poisson"),
    [(4.0, 0.383757, 0.006475), (10.0, 0.0100368, 2.487e-5)],
)
def test_deltas_are_those_that_the_authors_publish(epsilon, fixed, poisson):
    found = event_delta(GAUSSIAN(0.35), epsilon)
    assert found == pytest.approx(fixed, rel=1e-4)
    found = event_delta(sampled(0.35, 1e-3, 1000), epsilon)
    assert found == pytest.approx(poisson, rel=1e-3)


# D2: noise, q, steps; add or remove, and replace.
@pytest.mark.parametrize(
    ("noise", "rate", "steps", "removed", "replaced"),
    [
        (1.0, 0.01, 1000, 1.828, 2.843),
        (1.0, 0.004, 15_000, 2.719, 4.669),
        (1.5, 0.04, 2250, 6.769, 13.488),
    ],
)
def test_replacing_an_example_costs_what_was_measured(
    noise, rate, steps, removed, replaced
):
    event = sampled(noise, rate, steps)
    for relation, expected in [
        (Relation.ADD_OR_REMOVE_ONE, removed),
        (Relation.REPLACE_SPECIAL, removed),
        (Relation.REPLACE_ONE, replaced),
    ]:
        found = event_epsilon(event, 1e-5, relation=relation)
        assert found == pytest.approx(expected, abs=1e-3)
        assert found.method == "exact"


# D5: Opacus counts 90 // 0.04 steps in one of its tests, and int(90 / 0.04) in another.
@pytest.mark.parametrize(("steps", "epsilon"), [(2249, 6.76704), (2250, 6.76878)])
def test_one_step_more_or_less_is_seen(steps, epsilon):
    found = event_epsilon(sampled(1.5, 0.04, steps), 1e-5)
    assert found == pytest.approx(epsilon, abs=1e-5)


def test_twice_the_sensitivity_costs_what_tf_privacy_says_of_microbatches():
    # Noise 0.7 and q = 0.01: with microbatches the sum moves by two clip norms.
    for noise, expected in [(0.7, 2.461), (0.35, 18.698)]:
        found = event_epsilon(sampled(noise, 0.01, 120), 1e-5)
        assert found == pytest.approx(expected, abs=1e-3)
