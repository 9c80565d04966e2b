"""What several sources cost together."""

import dp_accounting
import jax
import jax.numpy as jnp
import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent

from dpjax.curvature.readings import Reading, joint_event

PUBLIC, PRIVATE = dp_accounting.NoOpDpEvent(), dp_accounting.NonPrivateDpEvent()
NOISY = GaussianDpEvent(2.0)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], PUBLIC),
        ([PUBLIC, PUBLIC], PUBLIC),
        ([PUBLIC, PRIVATE, PUBLIC], PRIVATE),
        ([PRIVATE, PRIVATE], PRIVATE),
        ([PUBLIC, NOISY], NOISY),
        ([NOISY, PUBLIC, NOISY], ComposedDpEvent([NOISY, NOISY])),
        ([NOISY, PRIVATE, PRIVATE], ComposedDpEvent([NOISY, PRIVATE])),
        ([PUBLIC, None], None),
        ([PRIVATE, None, NOISY], None),
    ],
)
def test_costs_add_up_and_one_that_is_unknown_leaves_all_unknown(events, expected):
    assert joint_event(events) == expected


def test_a_reading_keeps_its_event_through_jit():
    reading = jax.jit(lambda reading: reading)(Reading(jnp.ones(2), PRIVATE))
    assert reading.event == PRIVATE
    assert reading.value.shape == (2,)
