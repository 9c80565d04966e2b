"""Both ends of the spectrum: against closed forms and a second library."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse.linalg
from curvature_operators import dense, rotated

from dpjax.curvature import eigenpairs, krylov
from dpjax.curvature.matvec import MatVec

VALUES = np.r_[-4.0, -1.0, np.linspace(0, 1, 96), 6.0, 9.0]
MATRIX = rotated(VALUES).astype(np.float32)
LIKE = jnp.zeros(100)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def top(k=3, matrix=MATRIX, **options):
    options = {"num_steps": 40, **options}
    return eigenpairs.top_eigenpairs(dense(matrix), LIKE, k, key=0, **options)


def bottom(k=3, **options):
    options = {"num_steps": 40, **options}
    return eigenpairs.bottom_eigenpairs(dense(MATRIX), LIKE, k, key=0, **options)


def test_r1_values_are_those_of_the_matrix_in_the_order_stated():
    np.testing.assert_allclose(top(2, num_steps=40).values, [9, 6], rtol=1e-6)
    np.testing.assert_allclose(bottom(2, num_steps=40).values, [-4, -1], rtol=1e-5)
    assert np.all(np.diff(top().values) < 0)
    assert np.all(np.diff(bottom().values) > 0)


@pytest.mark.parametrize("find", [top, bottom])
@pytest.mark.parametrize("num_steps", [8, *map(slow, [15, 100]), 40])
def test_residuals_are_those_of_the_vectors(find, num_steps):
    pairs = find(4, num_steps=num_steps)
    columns = np.asarray(pairs.vectors, np.float64).T
    np.testing.assert_allclose(columns.T @ columns, np.eye(4), atol=3e-6)
    want = np.linalg.norm(MATRIX @ columns - columns * np.asarray(pairs.values), axis=0)
    np.testing.assert_allclose(pairs.residuals, want, atol=5e-6, rtol=1e-3)
    for value, residual in zip(pairs.values, pairs.residuals, strict=True):
        assert abs(VALUES - float(value)).min() <= residual + 1e-5


def test_r3_rosenbrock_at_its_minimum():
    def rosenbrock(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    def hessian(vector):
        return jax.jvp(jax.grad(rosenbrock), (jnp.ones(2),), (vector,))[1]

    pairs = eigenpairs.top_eigenpairs(hessian, jnp.zeros(2), 2, key=0)
    np.testing.assert_allclose(pairs.values[0], 1001.6006392325, rtol=1e-6)
    np.testing.assert_allclose(pairs.values[1], 0.3993607675, atol=2e-4)


def test_r7_softmax_regression_at_zero_repeats_each_eigenvalue():
    classes, features, examples = 5, 4, 30
    x = np.random.default_rng(0).normal(size=(examples, features)).astype(np.float32)
    labels = jnp.arange(examples) % classes
    weights = jnp.zeros((classes, features))

    def loss(weights):
        return optax.softmax_cross_entropy_with_integer_labels(
            x @ weights.T, labels
        ).mean()

    def hessian(vector):
        return jax.jvp(jax.grad(loss), (weights,), (vector,))[1]

    found = eigenpairs.top_eigenpairs(hessian, weights, 20, key=0).values
    covariance = np.linalg.eigvalsh(x.T @ x / examples)[::-1]
    want = np.r_[np.repeat(covariance / classes, classes - 1), np.zeros(features)]
    np.testing.assert_allclose(found, want, atol=2e-6)


def test_r13_gradient_descent_converges_below_two_over_the_sharpness_only():
    matrix = rotated(np.linspace(0.5, 8, 100))
    edge = 2 / float(top(1, matrix=matrix.astype(np.float32)).values[0])

    def length_after(rate):
        steps = np.linalg.matrix_power(np.eye(100) - rate * matrix, 400)
        return np.linalg.norm(steps @ np.ones(100))

    assert length_after(0.98 * edge) < 0.01
    assert length_after(1.02 * edge) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("find", "which"), [(top, "LA"), (bottom, "SA")])
def test_r16_scipy_finds_the_same(find, which):
    want = scipy.sparse.linalg.eigsh(
        MATRIX.astype(float), 3, which=which, return_eigenvectors=False
    )
    found = np.sort(find(3, num_steps=60).values)
    np.testing.assert_allclose(found, np.sort(want), atol=3e-5)


def test_power_iteration_of_optax_takes_the_operator_as_it_is():
    start = jax.random.normal(jax.random.key(0), (100,))
    value, _ = optax.power_iteration(dense(MATRIX), v0=start, num_iters=200)
    np.testing.assert_allclose(value, top(1).values[0], rtol=1e-5)


def test_a_warm_start_saves_steps():
    exact = top(1)
    nearby = MATRIX + 0.05 * rotated(np.linspace(-1, 1, 100), seed=1).astype(np.float32)
    want = np.linalg.eigvalsh(nearby.astype(float))[-1]
    start = exact.vectors[0]
    warm = top(1, matrix=nearby, num_steps=3, start=start)
    cold = top(1, matrix=nearby, num_steps=3)
    assert abs(warm.values[0] - want) < 1e-3
    assert abs(cold.values[0] - want) > 0.01


def test_both_ends_come_of_one_run():
    reduced = krylov.lanczos(dense(MATRIX), LIKE, key=0, num_steps=40)
    high = eigenpairs.top_ritz_pairs(reduced, 1)
    low = eigenpairs.bottom_ritz_pairs(reduced, 1)
    np.testing.assert_allclose([high.values[0], low.values[0]], [9, -4], rtol=1e-5)
    assert high.event == low.event == dp_accounting.NoOpDpEvent()


@pytest.mark.slow
def test_the_caller_may_compile_it():
    inside = jax.jit(
        lambda matvec: eigenpairs.top_eigenpairs(matvec, LIKE, 2, key=0, num_steps=40)
    )(dense(MATRIX))
    np.testing.assert_allclose(inside.values, top(2).values, rtol=1e-5)
    np.testing.assert_allclose(
        abs(np.sum(np.asarray(inside.vectors) * np.asarray(top(2).vectors), 1)),
        [1, 1],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_vectors_are_stacked_pytrees():
    like = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.float32(0)}}
    scales = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.float32(9)}}
    matvec = MatVec(lambda v, s: jax.tree.map(jnp.multiply, s, v), (scales,))
    pairs = eigenpairs.top_eigenpairs(matvec, like, 2, key=0)
    np.testing.assert_allclose(pairs.values, [9, 5], rtol=1e-6)
    np.testing.assert_allclose(abs(pairs.vectors["b"]["c"]), [1, 0], atol=1e-5)
    assert pairs.vectors["a"].shape == (2, 2, 3)


def test_a_product_that_is_not_finite_gives_nans():
    matrix = np.full((100, 100), np.nan, np.float32)
    pairs = top(2, matrix=matrix)
    assert np.isnan(pairs.values).all()
    assert np.isnan(pairs.residuals).all()


@pytest.mark.parametrize(
    ("k", "options", "error"),
    [
        (0, {}, ValueError),
        (1.5, {}, TypeError),
        (101, {}, ValueError),
        (5, {"num_steps": 4}, ValueError),
        (1, {"num_steps": 0}, ValueError),
    ],
)
def test_counts_that_cannot_be_are_refused(k, options, error):
    with pytest.raises(error, match="Expected"):
        top(k, **options)
