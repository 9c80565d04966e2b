"""The search for the setting that spends a target."""

import math

import pytest

from dpjax.accounting import target_search
from dpjax.accounting.epsilon import AccountingError


def falling(noise):
    """The log of an epsilon of 3 / noise over a target of 1."""
    return math.log(3 / noise)


def rising(setting):
    """The log of an epsilon of setting / 1000 over a target of 1."""
    return math.log(setting / 1000)


@pytest.mark.parametrize(
    ("spent", "sign"), [(0.999, -1), (1.0, 0), (1 + 2**-52, 1), (2.0, 1), (0.0, -1)]
)
def test_log_ratio_is_above_0_exactly_beyond_the_target(spent, sign):
    assert math.copysign(1, target_search.log_ratio(spent, 1.0)) * sign >= 0
    assert (target_search.log_ratio(spent, 1.0) > 0) == (sign > 0)


@pytest.mark.parametrize(("accountant", "precision"), [("exact", 1e-9), ("pld", 1e-5)])
def test_noise_ends_within_the_target_and_next_to_it(accountant, precision):
    within, beyond = target_search.bracket_noise(falling, 1.0)
    between = target_search.nearer(accountant, -1)
    noise = target_search.close_in(falling, within, beyond, between)
    assert 3 <= noise <= 3 * (1 + precision)


def test_a_rate_ends_within_the_target_and_next_to_it():
    def gap(rate):
        return rising(rate * 7e5)

    within = target_search.bracket_rate(gap, (1.0, gap(1.0)), 1.0)
    beyond = (8 * within[0], gap(8 * within[0]))
    rate = target_search.close_in(gap, within, beyond, target_search.nearer("exact", 1))
    assert 1 / 700 * (1 - 1e-9) <= rate <= 1 / 700


def test_steps_and_batches_are_whole_and_the_largest():
    within, beyond = target_search.bracket_steps(rising, 1.0)
    steps = target_search.close_in(rising, within, beyond, target_search.between_steps)
    assert steps == 1000
    assert target_search.largest_batch(rising, 123_456, 1.0) == 1000
    assert target_search.largest_batch(rising, 77, 1.0) == 77


@pytest.mark.parametrize(
    "search",
    [
        lambda: target_search.bracket_noise(lambda _: 1.0, 1.0),
        lambda: target_search.bracket_noise(lambda _: -1.0, 1.0),
        lambda: target_search.bracket_steps(lambda _: 1.0, 1.0),
        lambda: target_search.bracket_steps(lambda _: -1.0, 1.0),
        lambda: target_search.bracket_rate(lambda _: 1.0, (1.0, 1.0), 1.0),
        lambda: target_search.largest_batch(lambda _: 1.0, 9, 1.0),
    ],
)
def test_an_impossible_target_names_the_nearest_epsilon(search):
    with pytest.raises(AccountingError, match=r"(2\.71828|0\.367879), which"):
        search()
