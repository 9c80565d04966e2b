"""DP-SGD whose noise moves in stages."""

import dataclasses
import json

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import accounting, mechanism, optimizers, sampling, training

DELTA = 1e-5
PLAN = mechanism.DPStagedSGD(
    num_examples=200,
    expected_batch_size=20,
    num_steps=10,
    l2_norm_clip=0.5,
    noise_multiplier=1.6,
    final_noise_ratio=0.25,
    num_stages=3,
)


def with_changes(**changes):
    return dataclasses.replace(PLAN, **changes)


def test_stages_are_a_geometric_path_over_all_steps():
    assert [stage.num_steps for stage in PLAN.stages()] == [4, 3, 3]
    multipliers = [stage.noise_multiplier for stage in PLAN.stages()]
    np.testing.assert_allclose(multipliers, [1.6, 0.8, 0.4], rtol=1e-7)
    assert [stage.num_steps for stage in PLAN.stages(5)] == [4, 1]
    assert PLAN.stages(0) == []
    for steps in (2, 7, 33):
        stages = with_changes(num_steps=steps, num_stages=2).stages()
        assert sum(stage.num_steps for stage in stages) == steps


def test_the_event_is_the_composition_of_the_stages():
    accountant = dp_accounting.rdp.RdpAccountant()
    for stage in PLAN.stages():
        gaussian = dp_accounting.GaussianDpEvent(stage.noise_multiplier)
        step = dp_accounting.PoissonSampledDpEvent(0.1, gaussian)
        accountant.compose(step, stage.num_steps)
    theirs = accountant.get_epsilon(DELTA)
    assert PLAN.epsilon(DELTA, accountant="rdp") == pytest.approx(theirs, rel=0.02)
    assert PLAN.epsilon(DELTA, accountant="rdp") <= theirs * (1 + 1e-9)
    assert PLAN.epsilon(DELTA, step=0) == 0
    exact = PLAN.epsilon(DELTA)
    least, most = (
        accounting.exact_epsilon(
            noise_multiplier=z, sampling_prob=0.1, num_steps=10, delta=DELTA
        )
        for z in (1.6, 0.4)
    )
    assert least < exact < most


def test_the_curve_ends_at_the_whole_and_calibration_at_the_target():
    curve = PLAN.epsilon_curve(DELTA, [0, 2, 4, 8, 10])
    assert curve[0] == 0
    assert np.all(np.diff(curve) > 0)
    assert curve[-1] == PLAN.epsilon(DELTA)
    solved = with_changes(noise_multiplier=None).calibrate(2.0, DELTA)
    assert 1.999 < solved.epsilon(DELTA) <= 2.0
    json.dumps(solved.describe())


@pytest.mark.parametrize("stage", range(3))
def test_each_step_has_the_noise_that_is_accounted_for(stage):
    size = 20_000
    params = jnp.zeros(size)
    private = PLAN.optimizer(optax.identity(), 3)
    state, step = private.init(params), [0, 4, 9][stage]
    clipped_grad = PLAN.clipped_grad(jnp.vdot)
    nobody = clipped_grad(params, jnp.ones((2, size)), mask=jnp.zeros(2, bool))
    update = jax.jit(private.update)
    for _ in range(step + 1):
        average, state = update(nobody, state, params)
    claimed = PLAN.stages()[stage].noise_multiplier * PLAN.sensitivity / 20
    within = [
        abs(float(average.std()) / (factor * claimed) - 1) < 5 / np.sqrt(2 * size)
        for factor in (2 / 3, 1, 3 / 2)
    ]
    assert within == [False, True, False]


def test_a_run_counts_what_the_mechanism_says():
    def loss(params, x):
        return ((params - x) ** 2).sum()

    result = training.fit(
        PLAN,
        loss,
        jnp.zeros(3),
        jnp.ones((200, 3)),
        optax.sgd(0.1),
        key=1,
        delta=DELTA,
        logging=training.Logging(every=5, progress=False),
    )
    assert result.epsilon["exact"] == pytest.approx(PLAN.epsilon(DELTA), rel=1e-9)
    spent = optimizers.privacy_spent(result.opt_state, DELTA)
    assert spent.epsilon == pytest.approx(PLAN.epsilon(DELTA), rel=1e-6)
    assert spent.steps == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"final_noise_ratio": 0.0},
        {"final_noise_ratio": 1e-40},
        {"sampler": sampling.CyclicPoisson(period=2)},
        {"num_stages": 1},
        {"num_stages": 11},
        {"sampler": sampling.FixedSize()},
        {"l2_norm_clip": optimizers.AdaptiveClip(initial_l2_norm_clip=1.0)},
    ],
)
def test_what_has_no_account_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        with_changes(**wrong)
    with pytest.raises(ValueError, match="Expected noise that stays"):
        _ = PLAN.noise_stddev
