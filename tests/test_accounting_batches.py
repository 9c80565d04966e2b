"""Batches that are no Poisson samples."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from accounting_cases import sampled
from scipy import stats

from dpjax.accounting import batches, event_delta, event_epsilon
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import NON_PRIVATE, Relation, take_apart
from dpjax.accounting.grids.grid import Grid
from dpjax.accounting.laws.privacy_loss import SampledGaussian
from dpjax.accounting.renyi import of_events

GAUSSIAN = dp_accounting.GaussianDpEvent
POISSON = dp_accounting.PoissonSampledDpEvent
WITHOUT = dp_accounting.SampledWithoutReplacementDpEvent
WITH = dp_accounting.SampledWithReplacementDpEvent
TRUNCATED = dp_accounting.TruncatedSubsampledGaussianDpEvent
REPEATED = dp_accounting.SelfComposedDpEvent
ADD, REPLACE, ZERO = (
    Relation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE,
    Relation.REPLACE_SPECIAL,
)

# D3 of the notes on accounting: data, batch, noise, steps; the explicit pair at delta
# 1e-5, and the Renyi bound at half the noise (dp_accounting's, of default orders).
FIXED = [
    (100_000, 1000, 1.0, 1000, 13.361, 20.99),
    (50_000, 250, 1.0, 2000, 10.077, 15.58),
    (60_000, 600, 2.0, 5000, 4.202, 8.80),
]


def fixed(make, size, batch, noise, steps):
    return REPEATED(make(size, batch, GAUSSIAN(noise)), steps)


@pytest.mark.parametrize(("size", "batch", "noise", "steps", "pair", "renyi"), FIXED)
def test_batches_of_fixed_size_cost_what_was_measured(
    size, batch, noise, steps, pair, renyi
):
    event = fixed(WITHOUT, size, batch, noise, steps)
    removed = event_epsilon(event, 1e-5, relation=ADD)
    assert removed == pytest.approx(pair, abs=6e-4)
    assert removed.method == "exact"
    replaced = event_epsilon(event, 1e-5, relation=REPLACE)
    assert removed < replaced < renyi
    assert event_epsilon(event, 1e-5, relation=ZERO) == replaced


@pytest.mark.parametrize(("size", "batch", "noise", "steps", "pair", "renyi"), FIXED)
def test_the_numbers_that_dp_accounting_states_for_fixed_batches_are_never_repeated(
    size, batch, noise, steps, pair, renyi
):
    del renyi
    event = fixed(WITHOUT, size, batch, noise, steps)
    library = dp_accounting.rdp.RdpAccountant(neighboring_relation=REPLACE)
    unsound = library.compose(event).get_epsilon(1e-5)
    assert unsound < pair
    for accountant, relation in itertools.product(("exact", "pld", "rdp"), Relation):
        stated = event_epsilon(event, 1e-5, accountant=accountant, relation=relation)
        assert stated > pair - 1e-3


def test_fixed_batches_under_add_or_remove_are_poisson_samples_at_half_the_noise():
    [part] = batches.rewritten([(WITHOUT(200, 50, GAUSSIAN(3.0)), 7)], ADD)
    assert part == (POISSON(0.25, GAUSSIAN(1.5)), 7)


@pytest.mark.parametrize(("relation", "noise"), [(ADD, 1.0), (ZERO, 2.0)])
def test_a_batch_of_everybody_is_a_plain_release(relation, noise):
    event = fixed(WITHOUT, 50, 50, 2.0, 4)
    expected = event_epsilon(GAUSSIAN(noise / 2), 1e-5)
    found = event_epsilon(event, 1e-5, relation=relation)
    assert found == pytest.approx(float(expected), rel=1e-9)


def one_step_delta(law, other, noise, epsilon):
    """Return delta of two mixtures of normals, each a dict of means, by the grid."""
    x = np.linspace(-20, 20, 200_001) * noise
    densities = [
        sum(mass * stats.norm.pdf(x, mean, noise) for mean, mass in side.items())
        for side in (law, other)
    ]
    excess = np.maximum(densities[0] - math.exp(epsilon) * densities[1], 0)
    return float(excess.sum() * (x[1] - x[0]))


def mixed(*weighted):
    """Return a mixture as a dict of means, each given as (mean, mass)."""
    found = {}
    for mean, mass in weighted:
        found[mean] = found.get(mean, 0.0) + mass
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("others", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_no_choice_of_the_gradients_passes_the_bound_on_a_fixed_batch(others, epsilon):
    # x has the gradient 1, y has -1 or nothing, and all others have the same.
    noise, rate = 1.3, 0.2
    event = WITHOUT(10, 2, GAUSSIAN(noise))
    batch = mixed((others, 1 - rate), (1.0, rate))
    for relation, second in [(REPLACE, -1.0), (ZERO, 0.0), (ADD, None)]:
        other = (
            mixed((others, 1.0))
            if second is None
            else mixed((others, 1 - rate), (second, rate))
        )
        bound = event_delta(event, epsilon, relation=relation)
        for pair in ((batch, other), (other, batch)):
            assert one_step_delta(*pair, noise, epsilon) <= bound * (1 + 1e-4)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("others", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("relation", Relation)
def test_no_choice_of_the_gradients_passes_the_bound_with_replacement(
    others, epsilon, relation
):
    noise, size = 1.5, 3
    event = WITH(6, size, GAUSSIAN(noise))
    masses = stats.binom.pmf(range(size + 1), size, 1 / 6)
    second = {REPLACE: -1.0, ZERO: 0.0, ADD: others}[relation]
    batch, other = (
        mixed(*((k * mean + (size - k) * others, p) for k, p in enumerate(masses)))
        for mean in (1.0, second)
    )
    bound = event_delta(event, epsilon, relation=relation)
    for pair in ((batch, other), (other, batch)):
        assert one_step_delta(*pair, noise, epsilon) <= bound * (1 + 1e-4)


def truncated_batch(size, rate, limit, first, others):
    """Return the sum of a truncated Poisson sample: its means, and their masses.

    The first example has a gradient of its own (None: it is not there).
    """
    found = []
    for drawn in range(size):
        p = stats.binom.pmf(drawn, size - 1, rate)
        kept = min(drawn, limit) * others
        if first is None:
            found.append((kept, p))
            continue
        share = min(1.0, limit / (drawn + 1))
        found.append((kept, p * (1 - rate * share)))
        found.append((min(drawn, limit - 1) * others + first, p * rate * share))
    return mixed(*found)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("others", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("relation", Relation)
def test_no_choice_of_the_gradients_passes_the_bound_on_truncated_samples(
    others, epsilon, relation
):
    noise, size, rate, limit = 1.2, 12, 0.25, 3
    event = TRUNCATED(size, rate, limit, noise)
    second = {REPLACE: -1.0, ZERO: 0.0, ADD: None}[relation]
    batch, other = (
        truncated_batch(size, rate, limit, first, others) for first in (1.0, second)
    )
    bound = event_delta(event, epsilon, relation=relation)
    for pair in ((batch, other), (other, batch)):
        assert one_step_delta(*pair, noise, epsilon) <= bound * (1 + 1e-4)


# D4: noise 1, q = 0.01; what dp_accounting states, whose account is the same but for a
# looser pair where samples are cut.
@pytest.mark.parametrize(
    ("size", "limit", "steps", "delta", "stated"),
    [
        (100_000, 1100, 1000, 1e-5, 3.2008),
        (100_000, 1200, 1000, 1e-5, 1.82824),
        (1000, 16, 128, 1e-6, 5.105),
    ],
)
def test_truncated_samples_cost_at_most_what_was_measured(
    size, limit, steps, delta, stated
):
    event = REPEATED(TRUNCATED(size, 0.01, limit, 1.0), steps)
    library = dp_accounting.pld.PLDAccountant().compose(event)
    assert library.get_epsilon(delta) == pytest.approx(stated, abs=2e-3)
    found = event_epsilon(event, delta)
    untruncated = event_epsilon(sampled(1.0, 0.01, steps), delta)
    assert untruncated <= found <= stated + 2e-4


def test_what_is_never_cut_is_a_poisson_sample():
    event = TRUNCATED(100, 0.1, 100, 2.0)
    assert take_apart(REPEATED(event, 3)) == [(POISSON(0.1, GAUSSIAN(2.0)), 3)]
    rarely = REPEATED(TRUNCATED(100_000, 0.01, 2000, 1.0), 1000)
    expected = event_epsilon(sampled(1.0, 0.01, 1000), 1e-5)
    found = event_epsilon(rarely, 1e-5)
    assert found == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("relation", Relation)
def test_a_cut_that_always_happens_makes_batches_of_fixed_size(relation):
    # Everybody is drawn, and 3 of 10 are kept.
    cut = REPEATED(TRUNCATED(10, 1.0, 3, 2.0), 5)
    expected = event_epsilon(fixed(WITHOUT, 10, 3, 2.0, 5), 1e-4, relation=relation)
    found = event_epsilon(cut, 1e-4, relation=relation)
    assert found == pytest.approx(float(expected), rel=1e-3)


def test_with_replacement_under_add_or_remove_is_the_mixture_of_all_copies():
    [(mixture, count)] = batches.rewritten([(WITH(10, 3, GAUSSIAN(2.0)), 4)], ADD)
    assert count == 4
    assert mixture.standard_deviation == 2.0
    assert mixture.sensitivities == [0.0, 2.0, 4.0, 6.0]
    expected = stats.binom.pmf(range(4), 3, 0.1)
    np.testing.assert_allclose(mixture.sampling_probs, expected, rtol=1e-12)


@pytest.mark.parametrize("relation", Relation)
def test_many_copies_are_rounded_up_and_cost_a_little_more(relation, monkeypatch):
    drawn = fixed(WITH, 10, 5000, 2000.0, 3)
    found = [event_epsilon(drawn, 1e-5, accountant="rdp", relation=relation)]
    monkeypatch.setattr(batches, "_MOST_COPIES", 10**9)
    found.append(event_epsilon(drawn, 1e-5, accountant="rdp", relation=relation))
    assert 1 < found[0] / found[1] < 1.01


@pytest.mark.parametrize("size", [1, 40, 1500, 10**6, 10**9, 10**14, 2**53])
def test_copies_told_apart_are_few_and_keep_their_masses(size):
    [(mixture, _)] = batches.rewritten([(WITH(3, size, GAUSSIAN(2.0)), 1)], ADD)
    copies = np.array(mixture.sensitivities) / 2
    assert len(copies) <= 514
    assert sum(mixture.sampling_probs) == pytest.approx(1, rel=1e-9)
    # Rounded up, and by less than a fifth of a standard deviation.
    mean = np.dot(copies, mixture.sampling_probs)
    exact, slack = size / 3, 0.2 * math.sqrt(2 * size / 9)
    assert exact * (1 - 1e-9) <= mean <= exact + slack
    law = stats.binom(size, 1 / 3)
    for place in np.searchsorted(copies, exact) + np.arange(-3, 3):
        if 0 <= place < len(copies):
            above = sum(mixture.sampling_probs[place + 1 :])
            assert above == pytest.approx(law.sf(copies[place]), rel=1e-6, abs=1e-12)


def test_more_draws_than_can_be_counted_are_refused():
    event = WITH(3, 2**70, GAUSSIAN(2.0))
    with pytest.raises(AccountingError, match="at most 2\\^53"):
        event_epsilon(event, 1e-5)


@pytest.mark.parametrize("relation", Relation)
def test_one_draw_is_the_same_with_replacement_and_without(relation):
    pair = [fixed(make, 20, 1, 1.5, 30) for make in (WITH, WITHOUT)]
    drawn, expected = (event_epsilon(e, 1e-5, relation=relation) for e in pair)
    assert drawn == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("relation", Relation)
def test_replacement_costs_more(relation):
    drawn, without = (
        event_epsilon(fixed(make, 1000, 50, 2.0, 100), 1e-5, relation=relation)
        for make in (WITH, WITHOUT)
    )
    assert drawn > without


@pytest.mark.parametrize("make", [WITH, WITHOUT])
@pytest.mark.parametrize("relation", [REPLACE, ZERO])
def test_the_bound_is_above_the_explicit_pair(make, relation):
    # That is the account under add-or-remove.
    event = fixed(make, 1000, 50, 2.0, 100)
    pair = event_epsilon(event, 1e-5, relation=ADD)
    assert event_epsilon(event, 1e-5, relation=relation) > pair


@pytest.mark.parametrize("make", [WITH, WITHOUT])
def test_batches_of_fixed_size_compose_with_other_releases(make):
    step = fixed(make, 1000, 10, 2.0, 50)
    both = dp_accounting.ComposedDpEvent([step, GAUSSIAN(4.0), sampled(2.0, 0.01, 50)])
    for relation in Relation:
        found = event_epsilon(both, 1e-5, relation=relation)
        assert found > event_epsilon(step, 1e-5, relation=relation)
        assert found > event_epsilon(GAUSSIAN(4.0), 1e-5, relation=relation)
        bound = event_epsilon(both, 1e-5, relation=relation, accountant="rdp")
        assert found <= bound


@pytest.mark.parametrize("noise", [1e-3, 0.02, 0.12])
def test_little_noise_has_a_bound(noise):
    event = fixed(WITHOUT, 1000, 50, noise, 10)
    found = event_epsilon(event, 1e-5, relation=REPLACE)
    plain = event_epsilon(REPEATED(GAUSSIAN(noise), 10), 1e-5, relation=REPLACE)
    assert 0 < found <= plain * (1 + 1e-6)


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (WITHOUT(10, 0, GAUSSIAN(1.0)), []),
        (WITH(10, 0, GAUSSIAN(1.0)), []),
        (WITHOUT(10, 3, GAUSSIAN(math.inf)), []),
        (WITHOUT(10, 3, GAUSSIAN(0.0)), [(NON_PRIVATE, 1)]),
        (WITH(10, 3, dp_accounting.NonPrivateDpEvent()), [(NON_PRIVATE, 1)]),
        (TRUNCATED(0, 0.1, 3, 1.0), []),
        (TRUNCATED(10, 0.0, 3, 1.0), []),
        (TRUNCATED(10, 0.1, 0, 1.0), []),
        (TRUNCATED(10, 0.1, 3, 0.0), [(NON_PRIVATE, 1)]),
        (
            WITHOUT(10, 3, REPEATED(GAUSSIAN(2.0), 4)),
            [(WITHOUT(10, 3, GAUSSIAN(1.0)), 1)],
        ),
    ],
    ids=repr,
)
def test_batches_are_taken_apart(event, parts):
    assert take_apart(event) == parts


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (WITHOUT(10, 11, GAUSSIAN(1.0)), ValueError, "at most 10 examples, got"),
        (WITHOUT(0, 0, GAUSSIAN(1.0)), ValueError, "source_dataset_size=0"),
        (WITH(10, -1, GAUSSIAN(1.0)), ValueError, "sample_size=-1"),
        (WITH(10, 1.5, GAUSSIAN(1.0)), TypeError, "sample_size=1.5"),
        (
            WITHOUT(10, 3, dp_accounting.LaplaceDpEvent(1.0)),
            AccountingError,
            "a Gaussian release inside",
        ),
        (
            WITHOUT(10, 3, POISSON(0.1, GAUSSIAN(1.0))),
            AccountingError,
            "a Gaussian release inside",
        ),
        (TRUNCATED(10, 1.1, 3, 1.0), ValueError, r"\[0, 1\]"),
        (TRUNCATED(10, 0.1, -3, 1.0), ValueError, "truncated_batch_size=-3"),
        (TRUNCATED(10, 0.1, 3, -1.0), ValueError, "noise_multiplier=-1.0"),
    ],
    ids=repr,
)
def test_batches_out_of_range_are_refused(event, error, message):
    with pytest.raises(error, match=message):
        event_epsilon(event, 1e-5, relation=REPLACE)


def test_mixtures_of_gaussians_have_a_renyi_bound_above_their_loss():
    mixture = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
        2.0, [0.0, 1.0, 2.0], [0.9, 0.09, 0.01]
    )
    event = REPEATED(mixture, 100)
    bound = event_epsilon(event, 1e-5, accountant="rdp")
    assert event_epsilon(event, 1e-5) <= bound < math.inf


def test_the_swapped_pair_is_accounted_for_on_its_own_grid():
    laws = batches.laws(WITHOUT(1000, 10, GAUSSIAN(2.0)), REPLACE)
    [(weight, pair, swapped)] = laws.components
    assert (weight, pair, swapped) == (1.0, SampledGaussian(1.0, 0.01), True)
    grid = Grid.choose([laws], [100], 1e-6)
    found = grid.epsilon(grid.laws(), [100], 1e-6)
    event = fixed(WITHOUT, 1000, 10, 2.0, 100)
    expected = event_epsilon(event, 1e-6, relation=REPLACE)
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("delta", [0.5, 1 - 1e-9])
def test_a_large_delta_is_answered(delta):
    event = WITH(100, 5, GAUSSIAN(4.0))
    assert 0 <= event_epsilon(event, delta, relation=REPLACE) < 1e-3


@pytest.mark.parametrize("counts", [1, 2, 3, 4, 1000, [4, 7, 3]])
def test_an_epoch_on_trees_has_the_divergences_of_the_second_library(counts):
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, counts)
    orders = [1.5, 4.0, 32.0]
    library = dp_accounting.rdp.RdpAccountant(orders, Relation.REPLACE_SPECIAL)
    parts = batches.rewritten([(event, 5)], Relation.REPLACE_SPECIAL)
    found = of_events.divergences(parts, np.array(orders), Relation.REPLACE_SPECIAL)
    np.testing.assert_allclose(found, library.compose(event, 5).rdp, rtol=1e-12)


def test_another_example_moves_the_sums_of_a_tree_twice_as_far():
    once, twice = (
        event_epsilon(
            dp_accounting.SingleEpochTreeAggregationDpEvent(noise, 100),
            1e-5,
            relation=relation,
        )
        for noise, relation in (
            (4.0, Relation.REPLACE_SPECIAL),
            (8.0, Relation.REPLACE_ONE),
        )
    )
    assert once == pytest.approx(float(twice), rel=1e-9)


@pytest.mark.parametrize(
    ("noise", "counts"), [(-1.0, 4), (0.0, 4), (1.0, 0), (1.0, []), (1.0, 1.5)]
)
def test_trees_out_of_range_are_refused(noise, counts):
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(noise, counts)
    with pytest.raises((ValueError, TypeError), match="SingleEpochTree"):
        event_epsilon(event, 1e-5, relation=Relation.REPLACE_SPECIAL)


def test_other_events_are_none_of_these():
    assert batches.laws(GAUSSIAN(1.0), ADD) is None
    assert batches.laws(POISSON(0.1, GAUSSIAN(1.0)), REPLACE) is None
