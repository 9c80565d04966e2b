import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from correlated_cases import STRATEGIES
from released import PARAMS, examples, flat, loss_fn, normal_rows, per_example_gradients

from dpjax import accounting, clipping
from dpjax.noise import correlated
from dpjax.noise.correlated import ONCE, Cyclic, MinSeparation
from dpjax.optimizers import (
    check_optimizer,
    differentially_private_aggregate,
    privacy_spent,
    segments,
)
from dpjax.optimizers.correlated import correlated_aggregate

STEPS = 9
CLIP = 0.5
SIGMA = 1.3
SIZE = 20_000


def aggregate(strategy, **options):
    options = {
        "key": 4,
        "num_steps": STEPS,
        "participation": Cyclic(4),
        "expected_batch_size": 8.0,
    } | options
    return correlated_aggregate(CLIP, SIGMA, strategy, **options)


def run(optimizer, gradients, params, count, state=None):
    state = optimizer.init(params) if state is None else state
    step = jax.jit(lambda state: optimizer.update(gradients, state, params))
    rows = []
    for _ in range(count):
        update, state = step(state)
        rows.append(update)
    return rows, state


@pytest.mark.parametrize(
    ("name", "participation"),
    [
        ("banded inverse", Cyclic(4)),
        ("banded", MinSeparation(3, 2)),
        ("tree", ONCE),
        *(
            pytest.param(name, participation, marks=pytest.mark.slow)
            for name in ("identity", "square root", "buffered")
            for participation in (ONCE, Cyclic(4), MinSeparation(3, 2))
        ),
    ],
    ids=str,
)
def test_what_is_claimed_is_what_is_released(name, participation):
    strategy = STRATEGIES[name]
    # Zero gradients: the updates are nothing but noise, of covariance s^2 M M^T with
    # s = noise multiplier * clip norm * sensitivity of C / divisor.
    params = jnp.zeros(SIZE)
    optimizer = aggregate(strategy, participation=participation)
    updates, state = run(optimizer, jnp.zeros((2, SIZE)), params, STEPS)
    matrix = strategy.noise_matrix(STEPS)
    claimed = (
        SIGMA * CLIP * correlated.sensitivity(strategy, STEPS, participation).value
    )
    root = np.linalg.cholesky(matrix @ matrix.T)
    white = np.linalg.solve(root, np.asarray(updates, np.float64)) * 8 / claimed
    covariance = white @ white.T / SIZE
    # Standard errors of a variance and of a covariance of independent values.
    slack = 5 * np.where(np.eye(STEPS), math.sqrt(2 / SIZE), math.sqrt(1 / SIZE))
    assert np.all(np.abs(covariance - np.eye(STEPS)) < slack)
    for factor in (2 / 3, 3 / 2):
        assert not np.all(np.abs(covariance / factor**2 - np.eye(STEPS)) < slack)
    spent = privacy_spent(state, 1e-5)
    sound = accounting.exact_epsilon(
        noise_multiplier=SIGMA, sampling_prob=1.0, num_steps=1, delta=1e-5
    )
    assert spent.steps == STEPS
    assert spent.epsilon == pytest.approx(float(sound), rel=1e-6)


def test_sampled_participations_are_separate_and_cost_what_sampled_steps_do():
    strategy = correlated.Toeplitz((1.0, 0.5))
    optimizer = aggregate(strategy, participation=Cyclic(3), sampling_prob=0.25)
    params = jnp.zeros(SIZE)
    updates, state = run(optimizer, jnp.zeros((2, SIZE)), params, STEPS)
    draws = strategy.matrix(STEPS) @ np.asarray(updates, np.float64) * 8
    stddev = SIGMA * CLIP * math.sqrt(1.25)
    assert np.std(draws) == pytest.approx(stddev, rel=5 / math.sqrt(2 * draws.size))
    expected = accounting.exact_epsilon(
        noise_multiplier=SIGMA, sampling_prob=0.25, num_steps=3, delta=1e-5
    )
    found = privacy_spent(state, 1e-5).epsilon
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("count", "periods"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_a_sampled_run_that_stops_early_has_spent_the_periods_begun(count, periods):
    strategy = correlated.Toeplitz((1.0, 0.5))
    optimizer = aggregate(strategy, participation=Cyclic(3), sampling_prob=0.25)
    _, state = run(optimizer, jnp.zeros((2, 3)), jnp.zeros(3), count)
    rows = segments.read(state.private.segments)
    assert sum(row.steps for row in rows) == count
    assert [row.steps for row in rows if row.noise_multiplier == SIGMA] == [periods]


def test_without_noise_the_updates_are_the_plain_averages():
    plain = differentially_private_aggregate(CLIP, 0.0, 0, expected_batch_size=8.0)
    own = correlated_aggregate(
        CLIP,
        0.0,
        correlated.square_root(STEPS),
        0,
        num_steps=STEPS,
        participation=ONCE,
        expected_batch_size=8.0,
    )
    gradients = per_example_gradients()
    expected, _ = plain.update(gradients, plain.init(PARAMS), PARAMS)
    found, _ = own.update(gradients, own.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_it_takes_what_the_plain_step_takes():
    optimizer = aggregate(STRATEGIES["banded inverse"])
    batch = examples()
    state = optimizer.init(PARAMS)
    grads = clipping.clipped_grad(loss_fn, CLIP)(PARAMS, *batch)
    from_rows, _ = optimizer.update(per_example_gradients(), state, PARAMS)
    from_sum, _ = optimizer.update(grads, state, PARAMS)
    inside, _ = optimizer.update(None, state, PARAMS, loss_fn=loss_fn, batch=batch)
    chex.assert_trees_all_close(from_rows, from_sum, atol=1e-5)
    chex.assert_trees_all_close(from_rows, inside, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_updates_have_the_dtypes_of_the_gradients_and_buffers_are_float32(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    optimizer = aggregate(STRATEGIES["banded inverse"])
    rows, state = run(optimizer, normal_rows(params), params, 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(rows)} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.buffers)} == {
        jnp.dtype(jnp.float32)
    }


def test_a_resumed_run_goes_on_bit_for_bit():
    optimizer = aggregate(STRATEGIES["buffered"])
    gradients = per_example_gradients()
    whole, _ = run(optimizer, gradients, PARAMS, STEPS)
    _, half_way = run(optimizer, gradients, PARAMS, 4)
    state = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), half_way)
    rest, _ = run(optimizer, gradients, PARAMS, STEPS - 4, state)
    chex.assert_trees_all_equal(rest, whole[4:])


def test_a_step_beyond_the_horizon_is_an_error_or_nan():
    optimizer = aggregate(STRATEGIES["buffered"])
    gradients = per_example_gradients()
    rows, state = run(optimizer, gradients, PARAMS, STEPS + 1)
    assert np.all(np.isfinite(flat(rows[:-1])))
    assert np.all(np.isnan(flat(rows[-1])))
    with pytest.raises(ValueError, match=f"num_steps={STEPS}"):
        optimizer.update(gradients, state, PARAMS)


def test_check_optimizer_finds_the_private_step_in_a_chain():
    private = aggregate(STRATEGIES["banded inverse"])
    check_optimizer(optax.chain(private, optax.adam(0.1)), PARAMS)
    with pytest.raises(ValueError, match="example"):
        check_optimizer(optax.chain(optax.clip_by_global_norm(1.0), private), PARAMS)


def test_two_runs_without_a_key_have_different_noise():
    optimizer = aggregate(STRATEGIES["identity"], key=None)
    one, two = (run(optimizer, jnp.zeros((2, 3)), jnp.zeros(3), 1)[0] for _ in range(2))
    assert np.all(flat(one) != flat(two))
    with pytest.raises(TypeError, match="key"):
        jax.jit(optimizer.init)(PARAMS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"num_steps": 50}, ValueError, "num_steps=50"),
        ({"participation": 4}, TypeError, "participation"),
        ({"sampling_prob": 0.1}, ValueError, "bands"),
        ({"sampling_prob": 0.1, "participation": ONCE}, ValueError, "Cyclic"),
        ({"sampling_prob": 1.5}, ValueError, "sampling_prob"),
        ({"expected_batch_size": 0}, ValueError, "expected_batch_size"),
    ],
    ids=str,
)
def test_what_has_no_account_is_refused(options, error, message):
    options = {"participation": Cyclic(3)} | options
    with pytest.raises(error, match=message):
        aggregate(STRATEGIES["banded"], **options)


def test_a_noise_multiplier_that_changes_is_refused():
    with pytest.raises(TypeError, match="noise_multiplier"):
        correlated_aggregate(
            1.0, jnp.float32(1), STRATEGIES["tree"], 0, num_steps=3, participation=ONCE
        )


def test_gradients_clipped_to_another_norm_are_refused():
    optimizer = aggregate(STRATEGIES["tree"])
    grads = clipping.clipped_grad(loss_fn, 2 * CLIP)(PARAMS, *examples())
    with pytest.raises(ValueError, match="sensitivity"):
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)


def test_masked_out_leaves_are_refused():
    optimizer = aggregate(STRATEGIES["tree"])
    with pytest.raises(ValueError, match="masked-out"):
        optimizer.init({"w": PARAMS["w"], "b": optax.MaskedNode()})
