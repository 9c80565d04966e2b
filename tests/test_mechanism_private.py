import dataclasses

import dp_accounting
import numpy as np
import pytest
from released import PARAMS, examples, flat, loss_fn

from dpjax import accounting, clipping
from dpjax.mechanism.private import PrivateBatches

DELTA = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(PrivateBatches):
    """One Gaussian release a step, whatever is drawn."""

    num_examples: int = 100
    expected_batch_size: float = 10
    num_steps: int = 9
    sampler: None = None
    static_batch_size: int | None = None

    def __post_init__(self):
        self._check_batches()
        self._check_private()

    def _event(self, noise_multiplier, steps):
        gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
        return dp_accounting.SelfComposedDpEvent(gaussian, steps)

    def optimizer(self, optimizer, key=None):
        raise NotImplementedError

    def describe(self):
        raise NotImplementedError


PLAN = Plain(l2_norm_clip=0.5, noise_multiplier=3.0)


def test_all_statements_follow_from_the_event():
    expected = accounting.event_epsilon(
        PLAN.event(), DELTA, relation=PLAN.neighboring_relation
    )
    assert PLAN.epsilon(DELTA) == expected
    assert PLAN.epsilon_curve(DELTA, [0, 9]).tolist() == [0.0, float(expected)]
    assert PLAN.ledger().epsilon(DELTA) == pytest.approx(float(expected))
    # Nine releases with a noise multiplier of 3 are one with a noise multiplier of 1.
    one = accounting.event_epsilon(dp_accounting.GaussianDpEvent(1.0), DELTA)
    assert float(expected) == pytest.approx(float(one))


def test_calibration_returns_a_copy_that_meets_the_target():
    plan = PLAN.calibrate(2.0, DELTA)
    assert isinstance(plan, Plain)
    assert 1.99 < plan.epsilon(DELTA) <= 2.0
    assert PLAN.noise_multiplier == 3.0


def test_the_gradient_is_clipped_with_its_clip_norm():
    found = PLAN.clipped_grad(loss_fn)(PARAMS, *examples())
    expected = clipping.clipped_grad(loss_fn, 0.5)(PARAMS, *examples())
    assert found.sensitivity == PLAN.sensitivity == 0.5
    np.testing.assert_array_equal(flat(found.sum), flat(expected.sum))


@pytest.mark.parametrize("noise_multiplier", [-1.0, float("nan")])
def test_a_noise_multiplier_out_of_range_is_refused(noise_multiplier):
    with pytest.raises(ValueError, match="noise_multiplier"):
        dataclasses.replace(PLAN, noise_multiplier=noise_multiplier)


def test_without_a_noise_multiplier_nothing_is_said():
    plan = dataclasses.replace(PLAN, noise_multiplier=None)
    for statement in (plan.event, plan.ledger, lambda: plan.epsilon(DELTA)):
        with pytest.raises(ValueError, match="calibrate"):
            statement()


def test_more_steps_than_planned_have_no_epsilon():
    with pytest.raises(ValueError, match="step=10"):
        PLAN.epsilon(DELTA, step=10)
