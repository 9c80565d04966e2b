"""How much more fits into a budget, and how seldom the accountant is asked."""

import itertools
import math

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting.ledgers import headroom

A, B, C = (dp_accounting.GaussianDpEvent(float(n)) for n in (1, 2, 3))
PRICES = {repr(A): 1.0, repr(B): 2.5, repr(C): 1000.0}


class Account:
    """A stand-in for an accountant: each event has a price, and is counted."""

    def __init__(self):
        self.spent, self.asked = 0.0, 0

    def cost(self, parts):
        self.asked += 1
        return self.spent + sum(PRICES[repr(event)] * n for event, n in parts)

    def take(self, room, event, count=1):
        refused = room.take(event, count)
        if refused is None:
            self.spent += PRICES[repr(event)] * count
        return refused


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.5, 7.0, 64.0, 1000.0, 12345.5])
def test_as_many_are_taken_as_fit_and_no_more(limit):
    account = Account()
    room = headroom.Headroom(account.cost, limit)
    taken = 0
    while account.take(room, A) is None:
        taken += 1
    assert taken == math.floor(limit)
    assert account.take(room, A) == taken + 1.0


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 40)), max_size=60),
    st.floats(min_value=0.1, max_value=3000),
)
def test_any_order_is_refused_exactly_where_it_would_pass_the_limit(order, limit):
    account = Account()
    room = headroom.Headroom(account.cost, limit)
    for event, count in order:
        with_it = account.spent + PRICES[repr(event)] * count
        refused = account.take(room, event, count)
        assert (refused is None) == (with_it <= limit)
        assert refused in (None, with_it)


@pytest.mark.parametrize("events", [[A], [A, B], [A, A, A, B]])
def test_a_long_loop_asks_a_few_times(events):
    account = Account()
    room = headroom.Headroom(account.cost, 1e5)
    for event in itertools.cycle(events):
        if account.take(room, event) is not None:
            break
    assert account.spent > 1e5 - 2.5
    assert account.asked < 60


class Sloping(Account):
    """A stand-in that charges sampled releases by their noise and sampling."""

    def price(self, event):
        return (event.sampling_probability / event.event.noise_multiplier) ** 2

    def cost(self, parts):
        self.asked += 1
        return self.spent + sum(self.price(event) * n for event, n in parts)

    def take(self, room, event, count=1):
        refused = room.take(event, count)
        if refused is None:
            self.spent += self.price(event) * count
        return refused


def moving(noise, rate=0.5):
    return dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(noise)
    )


@pytest.mark.parametrize("slope", [1e-4, -1e-4])
def test_a_schedule_that_moves_slowly_asks_a_few_times(slope):
    account = Sloping()
    limit = 1000 * account.price(moving(1.0))
    room = headroom.Headroom(account.cost, limit)
    noises = (1.0 + slope * n for n in itertools.count())
    while account.take(room, moving(next(noises))) is None:
        pass
    assert limit - account.spent < 2 * account.price(moving(1.0))
    assert account.asked < 120


@given(
    st.lists(
        st.tuples(st.floats(0.5, 4.0), st.floats(0.01, 1.0), st.integers(1, 9)),
        max_size=40,
    ),
    st.floats(min_value=0.01, max_value=30),
)
def test_schedules_are_refused_exactly_where_they_would_pass_the_limit(order, limit):
    account = Sloping()
    room = headroom.Headroom(account.cost, limit)
    for noise, rate, count in order:
        event = moving(noise, rate)
        with_it = account.spent + account.price(event) * count
        refused = account.take(room, event, count)
        if abs(with_it - limit) > 1e-9 * limit:
            assert (refused is None) == (with_it <= limit)


def test_a_single_release_is_asked_about_once():
    account = Account()
    room = headroom.Headroom(account.cost, 10.0)
    assert account.take(room, B) is None
    assert account.asked == 1


def test_after_an_error_of_the_accountant_nothing_is_taken():
    def fail(parts):
        raise ValueError("no account")

    room = headroom.Headroom(fail, 1.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no account"):
            room.take(A, 1)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from([0.3, 1.0, 2.0]))
def test_the_largest_number_within_is_found(answer, more, power):
    asked = []

    def cost(number):
        asked.append(number)
        return float(number) ** power

    limit = (answer + 0.5) ** power
    beyond = answer + more
    found = headroom.largest_within(cost, limit, (0, 0.0), (beyond, cost(beyond)))
    assert found == answer
    assert len(asked) < 45


def test_an_infinite_cost_is_only_beyond():
    def cost(number):
        return math.inf if number > 700 else 0.0

    assert headroom.largest_within(cost, 1.0, (0, 0.0), (10**6, math.inf)) == 700


@pytest.mark.parametrize(
    ("price", "expected"), [(2.0, 0), (1.0, 1), (0.3, 3), (1e-6, 10**6), (0.0, 2**33)]
)
def test_the_most_that_fits(price, expected):
    assert headroom.most_within(lambda number: number * price, 1.0) == expected
