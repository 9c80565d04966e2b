import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from correlated_cases import STEPS, STRATEGIES
from scipy import stats

from dpjax import noise
from dpjax.noise import correlated
from dpjax.noise.correlated import (
    correlated_noise,
    init_correlated_noise,
    streaming,
)
from dpjax.noise.gaussian import domain_noise

LIKE = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(4, jnp.bfloat16)}
KINDS = ("banded inverse", "buffered", "banded", "tree")
some_strategies = pytest.mark.parametrize(
    "strategy", [STRATEGIES[name] for name in KINDS], ids=KINDS
)
TRACES = []


@functools.cache
def stepper(strategy):
    @jax.jit
    def step(state):
        TRACES.append(strategy)
        return correlated_noise(strategy, state, LIKE, 1.5, num_steps=STEPS)

    return step


def stacked(rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def run(step, state, count):
    rows = []
    for _ in range(count):
        row, state = step(state)
        rows.append(row)
    return rows, state


@some_strategies
def test_rows_are_the_noise_matrix_times_rows_of_the_key_and_are_compiled_once(
    strategy,
):
    start = init_correlated_noise(strategy, 3, LIKE, num_steps=STEPS)
    rows, end = run(stepper(strategy), start, STEPS)
    assert TRACES.count(strategy) == 1
    assert int(end.step) == STEPS
    assert {leaf.dtype for leaf in jax.tree.leaves(rows)} == {jnp.dtype(jnp.float32)}
    matrix = strategy.noise_matrix(STEPS)
    draw = jax.jit(lambda r: domain_noise(streaming.DOMAIN, start.key, r, LIKE, 1.5))
    draws = stacked([draw(r) for r in range(matrix.shape[1])])
    expected = jax.tree.map(lambda leaf: np.tensordot(matrix, leaf, 1), draws)
    chex.assert_trees_all_close(stacked(rows), expected, atol=1e-4, rtol=0)


@some_strategies
def test_a_resumed_run_goes_on_bit_for_bit(strategy):
    step = stepper(strategy)
    start = init_correlated_noise(strategy, 3, LIKE, num_steps=STEPS)
    whole, _ = run(step, start, STEPS)
    _, half_way = run(step, start, 6)
    # A checkpoint: plain arrays and nothing else.
    saved = jax.tree.map(np.array, half_way)
    rest, _ = run(step, jax.tree.map(jnp.asarray, saved), STEPS - 6)
    chex.assert_trees_all_equal(rest, whole[6:])


@pytest.mark.slow
@some_strategies
def test_eager_rows_are_those_of_a_compiled_step(strategy):
    state = init_correlated_noise(strategy, 3, LIKE, num_steps=STEPS)
    compiled, _ = run(stepper(strategy), state, 3)
    eager = []
    for _ in range(3):
        row, state = correlated_noise(strategy, state, LIKE, 1.5, num_steps=STEPS)
        eager.append(row)
    chex.assert_trees_all_close(eager, compiled, atol=1e-6)


@some_strategies
def test_a_concrete_step_beyond_the_horizon_is_an_error(strategy):
    state = init_correlated_noise(strategy, 0, LIKE, num_steps=STEPS)
    state = state._replace(step=jnp.uint32(STEPS))
    with pytest.raises(ValueError, match=f"below num_steps={STEPS}"):
        correlated_noise(strategy, state, LIKE, 1.0, num_steps=STEPS)


@some_strategies
def test_a_traced_step_beyond_the_horizon_gives_nan(strategy):
    state = init_correlated_noise(strategy, 0, LIKE, num_steps=STEPS)
    rows, _ = run(stepper(strategy), state, STEPS + 2)
    for t, row in enumerate(rows):
        for leaf in jax.tree.leaves(row):
            assert np.all(np.isfinite(leaf)) == (t < STEPS)
            assert np.all(np.isnan(leaf)) == (t >= STEPS)


@pytest.mark.parametrize("stddev", [0.3, 2.0])
def test_independent_noise_is_normal_with_the_stated_standard_deviation(stddev):
    like = jnp.zeros(20_000)
    strategy = correlated.Identity()
    state = init_correlated_noise(strategy, 5, like, num_steps=1)
    row, _ = correlated_noise(strategy, state, like, stddev, num_steps=1)
    assert stats.kstest(np.asarray(row) / stddev, "norm").pvalue > 1e-3
    assert stats.kstest(np.asarray(row) / stddev * 1.5, "norm").pvalue < 1e-6


def test_it_shares_no_noise_with_plain_gaussian_noise():
    like = jnp.zeros(20_000)
    strategy = correlated.Identity()
    state = init_correlated_noise(strategy, 5, like, num_steps=1)
    row, _ = correlated_noise(strategy, state, like, 1.0, num_steps=1)
    plain = noise.gaussian_noise(noise.key_data(5), 0, like, 1.0)
    assert abs(np.corrcoef(row, plain)[0, 1]) < 5 / np.sqrt(row.size)


def test_each_run_without_a_key_draws_its_own():
    keys = [
        init_correlated_noise(correlated.Identity(), None, LIKE, num_steps=1).key
        for _ in range(2)
    ]
    assert np.any(keys[0] != keys[1])


@pytest.mark.slow
@some_strategies
def test_noise_is_the_same_on_two_devices(strategy):
    like = jnp.zeros((4, 6))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    state = init_correlated_noise(strategy, 3, like, num_steps=STEPS)

    @jax.jit
    def plain(state):
        return correlated_noise(strategy, state, like, 1.0, num_steps=STEPS)

    @jax.jit
    def split(state):
        row, state = correlated_noise(strategy, state, like, 1.0, num_steps=STEPS)
        return jax.lax.with_sharding_constraint(row, sharding), state

    rows = [run(step, state, 4)[0] for step in (plain, split)]
    chex.assert_trees_all_close(*rows, atol=1e-6)


def test_leaves_that_are_not_floating_are_refused():
    with pytest.raises(TypeError, match="floating"):
        init_correlated_noise(
            correlated.Identity(), 0, jnp.zeros(3, jnp.int32), num_steps=1
        )


@pytest.mark.parametrize("num_steps", [0, -1])
def test_a_run_of_no_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        init_correlated_noise(correlated.Identity(), 0, LIKE, num_steps=num_steps)
