"""The number that accountants give."""

import copy
import json
import math
import pickle

import pytest

from dpjax.accounting.epsilon import AccountingError, Epsilon


def test_epsilon_is_a_float_with_error_and_method():
    epsilon = Epsilon(1.5, error=1e-4, method="pld")
    assert isinstance(epsilon, float)
    assert (epsilon, epsilon.error, epsilon.method) == (1.5, 1e-4, "pld")
    assert f"{epsilon:.2f}" == "1.50"
    assert json.dumps({"epsilon": epsilon}) == '{"epsilon": 1.5}'


def test_error_is_unknown_unless_it_is_given():
    assert math.isnan(Epsilon(1.5).error)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_epsilon_survives_being_copied(again):
    epsilon = again(Epsilon(1.5, error=1e-4, method="pld"))
    assert (epsilon, epsilon.error, epsilon.method) == (1.5, 1e-4, "pld")


def test_arithmetic_gives_plain_floats():
    assert type(Epsilon(1.5, error=1e-4, method="pld") + 1) is float


def test_accounting_error_is_a_value_error():
    assert issubclass(AccountingError, ValueError)
