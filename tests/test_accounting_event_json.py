"""Events as JSON objects: nothing is lost, nothing else is taken."""

import json
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting.ledgers import event_json

GAUSSIAN = dp_accounting.GaussianDpEvent(1.1)
EVENTS = [
    dp_accounting.NoOpDpEvent(),
    dp_accounting.NonPrivateDpEvent(),
    GAUSSIAN,
    dp_accounting.GaussianDpEvent(math.inf),
    dp_accounting.LaplaceDpEvent(0.1 + 0.2),
    dp_event.DiscreteLaplaceDpEvent(0.3, 2),
    dp_event.MixtureOfGaussiansDpEvent(1.0, [0.0, 1.0, 2.0], [0.81, 0.18, 0.01]),
    dp_event.RandomizedResponseDpEvent(0.5, 10),
    dp_accounting.SelfComposedDpEvent(GAUSSIAN, 10**18),
    dp_accounting.ComposedDpEvent([GAUSSIAN, dp_accounting.NoOpDpEvent()]),
    dp_accounting.PoissonSampledDpEvent(1 / 3, GAUSSIAN),
    dp_accounting.SampledWithReplacementDpEvent(100, 10, GAUSSIAN),
    dp_accounting.SampledWithoutReplacementDpEvent(100, 10, GAUSSIAN),
    dp_accounting.TruncatedSubsampledGaussianDpEvent(1000, 0.01, 30, 1.5),
    dp_accounting.SingleEpochTreeAggregationDpEvent(1.0, [3, 4]),
    dp_accounting.SingleEpochTreeAggregationDpEvent(1.0, 3),
    dp_event.RepeatAndSelectDpEvent(GAUSSIAN, 2.5, math.inf),
    dp_accounting.ZCDpEvent(0.1, 0.02),
]


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_event_comes_back_the_same(event):
    text = json.dumps(event_json.to_json(event), allow_nan=False)
    found = event_json.from_json(json.loads(text))
    assert found == event
    assert repr(found) == repr(event)


@given(
    st.floats(min_value=0, allow_infinity=False), st.floats(min_value=0, max_value=1)
)
def test_floats_keep_every_bit(noise, rate):
    event = dp_accounting.PoissonSampledDpEvent(
        rate, dp_accounting.GaussianDpEvent(noise)
    )
    found = event_json.from_json(json.loads(json.dumps(event_json.to_json(event))))
    assert found.event.noise_multiplier.hex() == noise.hex()
    assert found.sampling_probability.hex() == rate.hex()


def test_numbers_and_arrays_of_numpy_become_plain():
    event = dp_event.MixtureOfGaussiansDpEvent(
        np.float32(0.1), np.array([0, 1]), (np.float64(0.5), 0.5)
    )
    found = event_json.from_json(event_json.to_json(event))
    assert repr(found) == (
        "MixtureOfGaussiansDpEvent(standard_deviation=0.10000000149011612, "
        "sensitivities=[0, 1], sampling_probs=[0.5, 0.5])"
    )


class _Own(dp_accounting.GaussianDpEvent):
    pass


@pytest.mark.parametrize(
    "event",
    [
        None,
        1.0,
        "GaussianDpEvent",
        dp_accounting.UnsupportedDpEvent(),
        _Own(1.0),
        dp_accounting.GaussianDpEvent("1.0"),
        dp_accounting.GaussianDpEvent(True),
        dp_accounting.GaussianDpEvent(None),
        dp_accounting.PoissonSampledDpEvent(0.1, None),
    ],
    ids=repr,
)
def test_what_is_no_event_of_the_library_is_refused(event):
    with pytest.raises(TypeError, match="Expected"):
        event_json.to_json(event)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="got noise_multiplier=nan"):
        event_json.to_json(dp_accounting.GaussianDpEvent(math.nan))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        1.0,
        {},
        {"type": ["GaussianDpEvent"]},
        {"type": "UnsupportedDpEvent"},
        {"type": "os.system", "noise_multiplier": 1.0},
        {"type": "GaussianDpEvent"},
        {"type": "GaussianDpEvent", "noise_multiplier": "nan"},
        {"type": "GaussianDpEvent", "noise_multiplier": None},
        {"type": "GaussianDpEvent", "noise_multiplier": True},
        {"type": "GaussianDpEvent", "noise_multiplier": 1.0, "more": 1},
        {"type": "PoissonSampledDpEvent", "sampling_probability": 0.1, "event": {}},
    ],
    ids=repr,
)
def test_what_is_no_event_in_json_is_refused(value):
    with pytest.raises(ValueError, match="Expected"):
        event_json.from_json(value)
