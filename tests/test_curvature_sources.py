"""A batch says whether it is private, and what a look at it costs."""

import math

import dp_accounting
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.curvature import Private, Public
from dpjax.curvature.sources import arguments, raw_event


def spent(source):
    ledger = dpjax.PrivacyLedger()
    ledger.spend(dp_accounting.GaussianDpEvent(4.0), "training")
    before = ledger.epsilon(1e-5)
    ledger.spend(raw_event(source), "a look")
    return before, ledger.epsilon(1e-5)


def test_a_look_at_public_data_is_free():
    before, after = spent(Public(jnp.ones(3)))
    assert after == before < math.inf


def test_a_look_at_private_data_without_noise_makes_epsilon_infinite():
    before, after = spent(Private(jnp.ones(3)))
    assert before < after == math.inf


@pytest.mark.parametrize("source", [Public, Private])
def test_a_tuple_is_spread_over_arguments_and_anything_else_is_one(source):
    x, y = np.ones((3, 2)), np.zeros(3)
    assert arguments(source((x, y))) == (x, y)
    assert arguments(source(x)) == (x,)
    example = {"x": x, "y": y}
    assert arguments(source(example)) == (example,)


@pytest.mark.parametrize("function", [raw_event, arguments])
@pytest.mark.parametrize("batch", [np.ones(3), (np.ones(3),), None, Public])
def test_a_batch_that_does_not_say_is_refused(function, batch):
    with pytest.raises(TypeError, match=r"Public\(batch\) or Private\(batch\)"):
        function(batch)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((), "at least one array"),
        (np.float32(1), "leading batch axis"),
        (np.ones((0, 2)), "at least one example"),
        ((np.ones(3), np.ones(2)), "share the length"),
    ],
)
def test_a_batch_without_a_leading_axis_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        arguments(Private(batch))
