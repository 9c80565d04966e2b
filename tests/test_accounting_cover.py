"""A cover costs at least what it covers, alone and composed."""

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting import accountants
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import cover


def sampled(noise, rate):
    return dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(noise)
    )


def delta_of(event, epsilon, relation):
    return accountants.event_delta(event, epsilon, relation=relation)


SETTINGS = st.tuples(st.floats(0.5, 20.0), st.floats(1e-3, 1.0))
PAIRS = [Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE]


@pytest.mark.parametrize("relation", PAIRS)
@given(
    SETTINGS,
    st.tuples(st.floats(1.0, 2.0), st.floats(0.1, 1.0)),
    st.sampled_from([0.0, 0.1, 1.0, 5.0]),
)
def test_a_cover_has_the_larger_delta_at_every_epsilon(
    relation, settings, steps, epsilon
):
    worse = sampled(*settings)
    better = sampled(settings[0] * steps[0], settings[1] * steps[1])
    assert cover.covers(worse, better)
    larger = delta_of(worse, epsilon, relation)
    smaller = delta_of(better, epsilon, relation)
    assert smaller.log <= larger.log + 1e-9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sampled(1.0, 0.1), sampled(0.9, 0.1)),
        (sampled(1.0, 0.1), sampled(1.0, 0.2)),
        (sampled(1.0, 0.1), sampled(2.0, 0.2)),
        (dp_accounting.GaussianDpEvent(1.0), dp_accounting.GaussianDpEvent(2.0)),
        (dp_accounting.GaussianDpEvent(1.0), sampled(1.0, 0.5)),
        (dp_accounting.LaplaceDpEvent(1.0), sampled(1.0, 0.5)),
    ],
)
def test_nothing_else_is_covered(one, other):
    assert not cover.covers(one, other)
    assert cover.covers(one, one)


@given(st.lists(SETTINGS, min_size=1, max_size=5))
def test_the_release_around_several_covers_each_and_its_neighbours(several):
    events = [sampled(*settings) for settings in several]
    found = cover.around(events)
    assert all(cover.covers(found, event) for event in events)
    nearly = [sampled(0.995 * noise, min(1.0, 1.01 * rate)) for noise, rate in several]
    assert all(cover.covers(found, event) for event in nearly)


@pytest.mark.parametrize(
    "events", [[], [sampled(1.0, 0.1), dp_accounting.GaussianDpEvent(1.0)]]
)
def test_there_is_no_release_around_other_events(events):
    assert cover.around(events) is None


COUNTED = st.lists(st.tuples(SETTINGS, st.integers(1, 9)), max_size=8)


@given(COUNTED)
def test_gathering_keeps_the_number_and_covers_each_part(several):
    parts = [(sampled(*settings), count) for settings, count in several]
    found = cover.gathered(parts)
    assert sum(count for _, count in found) == sum(count for _, count in parts)
    assert len(found) <= len(parts)
    for event, _ in parts:
        near = [one for one, _ in found if cover.covers(one, event)]
        noises = [one.event.noise_multiplier for one in near]
        rates = [one.sampling_probability for one in near]
        assert max(noises) >= event.event.noise_multiplier * (1 - 0.0101)
        assert min(rates) <= event.sampling_probability * 1.0204


def test_gathering_leaves_other_events_as_they_are():
    parts = [
        (dp_accounting.GaussianDpEvent(1.0), 2),
        (dp_accounting.LaplaceDpEvent(1.0), 1),
        (sampled(0.0, 0.5), 1),
        (sampled(1.0, 0.0), 3),
    ]
    assert cover.gathered(parts) == parts


def test_a_slow_schedule_becomes_a_few_parts():
    parts = [(sampled(1.0 + 1e-4 * n, 0.01), 1) for n in range(1000)]
    assert len(cover.gathered(parts)) <= 12
