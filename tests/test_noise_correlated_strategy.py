import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from correlated_cases import STEPS, STRATEGIES

from dpjax.noise import correlated
from dpjax.noise.correlated.strategy import check_steps, numbers

every_strategy = pytest.mark.parametrize(
    "strategy", STRATEGIES.values(), ids=STRATEGIES
)


def streamed(strategy, draws):
    """Return all rows of noise that a strategy makes of draws, leaves (rows, ...)."""
    first = jax.tree.map(lambda leaf: leaf[0], draws)
    buffers = strategy.init_buffers(first, STEPS)

    def draw(row):
        return jax.tree.map(lambda leaf: leaf[row], draws)

    def step(buffers, step):
        row, buffers = strategy.next_noise(draw, step, buffers)
        return buffers, row

    return jax.lax.scan(step, buffers, jnp.arange(STEPS, dtype=jnp.uint32))[1]


@every_strategy
@pytest.mark.parametrize("steps", [1, 2, 8, STEPS])
def test_the_noise_matrix_is_a_left_inverse(strategy, steps):
    identity = strategy.noise_matrix(steps) @ strategy.matrix(steps)
    np.testing.assert_allclose(identity, np.eye(steps), atol=1e-12)


@every_strategy
def test_what_is_streamed_is_the_noise_matrix_times_the_draws(strategy):
    matrix = strategy.noise_matrix(STEPS)
    generator = np.random.default_rng(0)
    real = generator.normal(size=(matrix.shape[1], 2, 3))
    draws = {"a": real, "b": [real[:, 0, 0] + 1j * real[:, 1, 2]]}
    with jax.enable_x64(True):
        found = streamed(strategy, jax.tree.map(jnp.asarray, draws))
    expected = jax.tree.map(lambda leaf: np.tensordot(matrix, leaf, 1), draws)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14 * np.abs(matrix).sum())


@pytest.mark.parametrize("name", ["banded inverse", "buffered", "banded", "tree"])
def test_what_is_streamed_in_float32_is_close(name):
    strategy = STRATEGIES[name]
    matrix = strategy.noise_matrix(STEPS)
    draws = np.random.default_rng(0).normal(size=(matrix.shape[1], 5))
    found = streamed(strategy, jnp.asarray(draws, jnp.float32))
    assert found.dtype == np.float32
    size = np.abs(matrix).sum()
    np.testing.assert_allclose(found, matrix @ draws, atol=1e-6 * size)


@every_strategy
def test_the_matrix_has_no_more_bands_than_are_claimed(strategy):
    matrix = strategy.matrix(STEPS)
    bands = strategy.bands(STEPS)
    gram = matrix.T @ matrix
    far = np.abs(np.subtract.outer(np.arange(STEPS), np.arange(STEPS))) >= bands
    assert not gram[far].any()


@every_strategy
def test_variances_are_those_of_the_rows_of_the_product(strategy):
    column = correlated.workload(STEPS, momentum=0.5)
    for workload in (np.ones(STEPS), column):
        dense = np.tril(
            workload[np.abs(np.subtract.outer(np.arange(STEPS), np.arange(STEPS)))]
        )
        expected = np.sum((dense @ strategy.noise_matrix(STEPS)) ** 2, axis=1)
        np.testing.assert_allclose(strategy.variances(STEPS, workload), expected)


@every_strategy
def test_a_strategy_is_a_value_that_json_can_hold(strategy):
    assert hash(strategy) == hash(type(strategy)(**vars(strategy)))
    described = json.loads(json.dumps(strategy.describe()))
    assert described["strategy"] == type(strategy).__name__


def test_strategies_that_differ_in_one_of_many_numbers_are_described_otherwise():
    one, two = np.ones(100), np.ones(100)
    two[50] = 0.5
    one, two = correlated.Toeplitz(tuple(one)), correlated.Toeplitz(tuple(two))
    assert len(json.dumps(one.describe())) < 200
    assert one.describe() != two.describe()


@pytest.mark.parametrize(
    ("strategy", "rows"),
    [
        (correlated.Identity(), 0),
        (correlated.Toeplitz((1.0, 0.5, 0.3)), 2),
        (correlated.banded_inverse_square_root(4), 3),
        (correlated.BandedInverse((2.0,)), 0),
        (correlated.BufferedToeplitz((0.9, 0.5), (0.2, 0.3)), 2),
        (correlated.BinaryTree(), 1 + math.floor(math.log2(1000))),
    ],
)
def test_the_state_holds_a_few_rows_however_many_steps_there_are(strategy, rows):
    state = correlated.init_correlated_noise(strategy, 0, jnp.zeros(6), num_steps=1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.buffers)) == rows * 6


def test_numbers_are_kept_as_float32_holds_them():
    assert numbers("x", [0.1, 1]) == (float(np.float32(0.1)), 1.0)


@pytest.mark.parametrize("values", [[np.nan], [1e39], [[1.0]], 1.0])
def test_what_are_no_numbers_is_refused(values):
    with pytest.raises(ValueError, match="x"):
        numbers("x", values)


def test_what_is_no_strategy_is_refused():
    with pytest.raises(TypeError, match="strategy"):
        check_steps("tree", 3)


def test_more_steps_than_a_strategy_has_are_refused():
    with pytest.raises(ValueError, match="num_steps=14"):
        check_steps(STRATEGIES["banded"], STEPS + 1)
