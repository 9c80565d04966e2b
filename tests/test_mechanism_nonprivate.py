import dataclasses
import json
import math

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from released import PARAMS, examples, loss_fn

from dpjax import sampling
from dpjax.mechanism import DPSGD, NonPrivate

PLAIN = NonPrivate(num_examples=100, expected_batch_size=5, num_steps=20)


def test_nothing_is_promised_once_a_step_was_taken():
    assert PLAIN.event() == dp_accounting.NonPrivateDpEvent()
    for accountant in ("exact", "pld", "rdp"):
        assert PLAIN.epsilon(1e-5, accountant=accountant) == math.inf
        assert PLAIN.epsilon(1e-5, step=1, accountant=accountant) == math.inf
    assert PLAIN.ledger().epsilon(1e-5) == math.inf
    assert PLAIN.sensitivity == math.inf


def test_nothing_is_spent_at_zero_steps():
    assert PLAIN.epsilon(1e-5, step=0) == 0.0
    assert PLAIN.ledger(step=0).epsilon(1e-5) == 0.0
    nothing = dataclasses.replace(PLAIN, num_steps=0)
    assert nothing.epsilon(1e-5) == 0.0
    assert nothing.event() == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize("step", [-1, 21])
def test_epsilon_of_steps_outside_of_the_plan_is_refused(step):
    with pytest.raises(ValueError, match=f"got step={step}"):
        PLAIN.epsilon(1e-5, step=step)


def test_delta_and_accountant_are_checked_as_in_private_runs():
    with pytest.raises(ValueError, match="got delta="):
        PLAIN.epsilon(1.0)
    with pytest.raises(ValueError, match="'pld'"):
        PLAIN.epsilon(1e-5, accountant="moments")


def test_update_is_the_plain_gradient_over_the_public_divisor():
    x, y = examples()
    mask = jnp.arange(7) < 4
    grads = PLAIN.clipped_grad(loss_fn)(PARAMS, x, y, mask=mask)
    optimizer = PLAIN.optimizer(optax.sgd(1.0), key=3)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)

    def total(params):
        return jnp.sum(jax.vmap(loss_fn, (None, 0, 0))(params, x[:4], y[:4]))

    expected = jax.tree.map(lambda g: -g / 5, jax.grad(total)(PARAMS))
    chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)


def test_batches_are_those_of_the_private_mechanism():
    private = DPSGD(
        num_examples=100, expected_batch_size=5, num_steps=20, l2_norm_clip=1.0
    )
    for plain, other in zip(PLAIN.batches(3), private.batches(3), strict=True):
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_array_equal(a.indices, b.indices)
            np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize("sampler", [None, sampling.ShuffledEpochs()])
def test_description_is_json_with_the_keys_of_the_private_one(sampler):
    plain = dataclasses.replace(PLAIN, sampler=sampler)
    private = DPSGD(
        num_examples=100,
        expected_batch_size=5,
        num_steps=20,
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
    )
    found = json.loads(json.dumps(plain.describe(), allow_nan=False))
    assert set(found) == set(private.describe())
    assert found["noise_multiplier"] == 0.0
    assert found["neighboring_relation"] is None
