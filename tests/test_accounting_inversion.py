"""Delta from an accountant of epsilon."""

import math

import pytest
from accounting_cases import sampled

from dpjax.accounting.epsilon import AccountingError, Epsilon
from dpjax.accounting.events import Relation, take_apart
from dpjax.accounting.inversion import invert

PARTS = take_apart(sampled(1.0, 0.1))
ADD = Relation.ADD_OR_REMOVE_ONE


def logarithmic(_parts, delta, _relation):
    """An epsilon of -log(delta) / 10."""
    return Epsilon(-math.log(delta) / 10, method="toy")


def test_the_delta_found_is_the_least_that_keeps_epsilon():
    delta = invert(logarithmic, PARTS, 1.2, ADD)
    assert -12 <= delta.log <= -12 + 3e-6
    assert delta.method == "toy"
    assert logarithmic(PARTS, delta, ADD) <= 1.2


def test_an_epsilon_beyond_all_deltas_has_the_least_one():
    delta = invert(logarithmic, PARTS, 1e6, ADD)
    assert delta.log == pytest.approx(math.log(1e-250))


def test_an_epsilon_that_no_delta_keeps_has_delta_1():
    def costly(parts, delta, relation):
        return Epsilon(5 + logarithmic(parts, delta, relation), method="toy")

    assert invert(costly, PARTS, 1.0, ADD) == 1


def test_deltas_that_the_accountant_refuses_are_not_reached():
    def coarse(parts, delta, relation):
        if delta < 1e-10:
            raise AccountingError
        return logarithmic(parts, delta, relation)

    delta = invert(coarse, PARTS, 100.0, ADD)
    assert 1e-10 <= delta <= 1e-3
