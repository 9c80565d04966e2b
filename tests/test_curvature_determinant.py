"""The log-determinant: against dense ones, a limit law and a second library."""

import dataclasses

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense, marchenko_pastur, rotated

from dpjax.curvature import determinant

SIZE = 40
LIKE = jnp.zeros(SIZE)
VALUES = np.geomspace(0.1, 10, SIZE)


def log_determinant(matrix, size=SIZE, **options):
    options = {"key": 0, "num_steps": 20, **options}
    return determinant.log_determinant(dense(matrix), jnp.zeros(size), **options)


def exhaustive(matvec):
    return determinant.log_determinant(matvec, LIKE, key=0, num_steps=SIZE)


compiled = jax.jit(exhaustive)


@pytest.mark.slow
def test_r1_it_is_the_sum_of_the_logarithms_within_its_standard_error():
    result = log_determinant(rotated(VALUES * 3).astype(np.float32), num_probes=200)
    want = np.log(VALUES * 3).sum()
    assert abs(result.value - want) < 4 * result.stderr
    assert 0 < result.stderr < 0.05 * want


@pytest.mark.slow
def test_r8_marchenko_and_pastur_within_five_per_cent():
    matrix = marchenko_pastur()
    result = log_determinant(matrix, 400, num_probes=30, num_steps=40)
    dense_value = np.linalg.slogdet(matrix.astype(float))[1]
    # The limit with half as many dimensions as samples: -1 - log(1 / 2).
    np.testing.assert_allclose(dense_value / 400, -0.306853, rtol=0.05)
    np.testing.assert_allclose(result.value, dense_value, rtol=0.05)
    assert abs(result.value - dense_value) < 4 * result.stderr


def test_a_diagonal_operator_is_exact_with_one_probe():
    matrix = np.diag(VALUES).astype(np.float32)
    result = log_determinant(matrix, num_probes=1, num_steps=SIZE)
    np.testing.assert_allclose(result.value, np.log(VALUES).sum(), atol=1e-3)
    assert np.isnan(result.stderr)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_scale_is_added_as_its_logarithm(scale):
    matrix = rotated(VALUES).astype(np.float32)
    plain = log_determinant(matrix)
    scaled = log_determinant(np.float32(scale) * matrix)
    added = SIZE * np.log(np.float64(np.float32(scale)))
    np.testing.assert_allclose(scaled.value - added, plain.value, atol=5e-3)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(SIZE),
        np.r_[np.zeros(37), 1.0, 2.0, 3.0],
        np.r_[-1.0, np.ones(39)],
        -np.ones(SIZE),
        np.r_[1e-9, np.ones(39)],
    ],
    ids=["zero", "rank 3", "one negative", "negative", "singular in float32"],
)
def test_what_is_not_positive_definite_is_refused_and_nan_under_jit(values):
    matvec = dense(rotated(values).astype(np.float32))
    with pytest.raises(ValueError, match="Expected a positive definite operator"):
        exhaustive(matvec)
    assert np.isnan(compiled(matvec).value)


def test_the_error_says_no_number_of_private_data():
    matvec = dense(np.diag(np.linspace(-1, 1, SIZE)).astype(np.float32))
    public = dataclasses.replace(matvec, event=dp_accounting.NoOpDpEvent())
    with pytest.raises(ValueError, match=r"-1 times the largest"):
        determinant.log_determinant(public, LIKE, key=0, num_steps=SIZE)
    private = dataclasses.replace(matvec, event=dp_accounting.NonPrivateDpEvent())
    with pytest.raises(ValueError, match=r"eigenvalue of \D* the largest"):
        determinant.log_determinant(private, LIKE, key=0, num_steps=SIZE)


def test_repeated_eigenvalues_are_no_trouble():
    result = log_determinant(np.eye(SIZE, dtype=np.float32) * 2)
    np.testing.assert_allclose(result.value, SIZE * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(result.stderr, 0, atol=1e-4)


def test_a_product_that_is_not_finite_gives_nan():
    assert np.isnan(log_determinant(np.full((SIZE, SIZE), np.nan, np.float32)).value)


@pytest.mark.slow
def test_the_caller_may_compile_it():
    matvec = dense(rotated(VALUES).astype(np.float32))

    def run(matvec):
        return determinant.log_determinant(matvec, LIKE, key=0, num_steps=20)

    inside, outside = jax.jit(run)(matvec), run(matvec)
    np.testing.assert_allclose(inside.value, outside.value, rtol=1e-3, atol=1e-3)
    assert inside.event == outside.event


@pytest.mark.slow
def test_r16_matfree_agrees_where_nothing_is_degenerate():
    decomp = pytest.importorskip("matfree.decomp")
    funm = pytest.importorskip("matfree.funm")
    stochtrace = pytest.importorskip("matfree.stochtrace")
    matrix = jnp.asarray(rotated(VALUES * 3), jnp.float32)
    integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(20))
    sampler = stochtrace.sampler_signs(LIKE, num=200)
    estimate = stochtrace.estimator_monte_carlo(integrand, sampler)
    theirs = estimate(lambda v: matrix @ v, jax.random.key(1))
    ours = log_determinant(matrix, num_probes=200)
    assert abs(float(theirs) - ours.value) < 6 * ours.stderr
