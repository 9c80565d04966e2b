"""Trace, Frobenius norm and diagonal: unbiased, with standard errors that are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from curvature_operators import dense, rotated

from dpjax.curvature import estimates
from dpjax.curvature.matvec import MatVec

SIZE = 30
MATRIX = rotated(np.r_[np.linspace(-1, 2, 29), 10.0]).astype(np.float32)
LIKE = jnp.zeros(SIZE)
ALL = [estimates.trace, estimates.diagonal, estimates.frobenius_squared]
TRACE_FIRST = [estimates.trace] + [
    pytest.param(estimate, marks=pytest.mark.slow) for estimate in ALL[1:]
]
"""One is enough for the fast tests of what is the same code for all."""


def truth(estimate, matrix):
    return {
        estimates.trace: np.trace,
        estimates.diagonal: np.diag,
        estimates.frobenius_squared: lambda m: (m**2).sum(),
    }[estimate](matrix.astype(float))


@pytest.mark.parametrize("estimate", ALL)
def test_the_mean_is_within_four_standard_errors_of_the_truth(estimate):
    result = estimate(dense(MATRIX), LIKE, key=0, num_probes=400)
    apart = abs(np.asarray(result.value) - truth(estimate, MATRIX))
    assert np.all(apart < 4 * np.asarray(result.stderr))
    assert np.all(apart > 0)


def repeated(estimate, num_probes, runs):
    @jax.jit
    def run(key):
        return estimate(dense(MATRIX), LIKE, key=key, num_probes=num_probes)

    return jax.lax.map(run, jax.random.split(jax.random.key(0), runs))


def within(samples, variance):
    """Tell whether the two-sided chi-squared test at 1 in 1000 accepts a variance."""
    ratio = (len(samples) - 1) * np.var(samples, ddof=1) / variance
    low, high = scipy.stats.chi2.ppf([5e-4, 1 - 5e-4], len(samples) - 1)
    return low < ratio < high


def test_r10_variance_of_the_trace_is_the_formula_and_no_other():
    probes, runs = 20, 3000
    results = repeated(estimates.trace, probes, runs)
    exact = MATRIX.astype(float)
    off_diagonal = (exact**2).sum() - (np.diag(exact) ** 2).sum()
    variance = 2 * off_diagonal / probes
    samples = np.asarray(results.value, float)
    assert within(samples, variance)
    assert not within(samples, variance * 2 / 3)
    assert not within(samples, variance * 3 / 2)
    # The squared standard error estimates the same without bias: five of its own.
    squared = np.asarray(results.stderr, float) ** 2
    spread = squared.std() / np.sqrt(runs)
    assert abs(squared.mean() - variance) < 5 * spread
    assert spread < variance / 30


@pytest.mark.slow
def test_variance_of_the_diagonal_is_the_rest_of_the_row():
    probes, runs = 10, 3000
    results = repeated(estimates.diagonal, probes, runs)
    exact = MATRIX.astype(float)
    want = ((exact**2).sum(1) - np.diag(exact) ** 2) / probes
    squared = np.asarray(results.stderr, float) ** 2
    np.testing.assert_allclose(squared.mean(0), want, rtol=0.1)
    np.testing.assert_allclose(np.var(results.value, 0), want, rtol=0.2)


@pytest.mark.parametrize("estimate", ALL)
def test_r10_one_probe_is_exact_for_a_diagonal_operator(estimate):
    matrix = np.diag(np.arange(-3.0, 27.0)).astype(np.float32)
    one = estimate(dense(matrix), LIKE, key=5, num_probes=1)
    np.testing.assert_allclose(one.value, truth(estimate, matrix), rtol=1e-6)
    assert np.isnan(one.stderr).all()
    ten = estimate(dense(matrix), LIKE, key=5)
    np.testing.assert_allclose(ten.stderr, np.zeros_like(ten.stderr), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("estimate", [estimates.trace, estimates.diagonal])
def test_the_scale_of_the_operator_scales_the_estimate(estimate, scale):
    scale = np.float32(scale)
    plain = estimate(dense(MATRIX), LIKE, key=1)
    scaled = estimate(dense(scale * MATRIX), LIKE, key=1)
    np.testing.assert_allclose(scaled.value / scale, plain.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled.stderr / scale, plain.stderr, rtol=1e-4)


@pytest.mark.parametrize("estimate", ALL)
def test_zero_is_zero(estimate):
    result = estimate(dense(np.zeros((SIZE, SIZE), np.float32)), LIKE, key=0)
    np.testing.assert_array_equal(result.value, np.zeros_like(result.value))
    np.testing.assert_array_equal(result.stderr, np.zeros_like(result.value))


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite_gives_no_number(estimate, bad):
    matrix = MATRIX.copy()
    matrix[0, :] = bad
    result = estimate(dense(matrix), LIKE, key=0)
    assert not np.isfinite(np.ravel(result.value)[0])
    assert not np.isfinite(np.ravel(result.stderr)[0])


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("num_probes", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_it_costs_one_product_a_probe(estimate, num_probes):
    calls = []

    def multiply(vector):
        calls.append(None)
        return vector

    matvec = MatVec(multiply, traceable=False)
    estimate(matvec, LIKE, key=0, num_probes=num_probes)
    assert len(calls) == num_probes


@pytest.mark.parametrize("estimate", TRACE_FIRST)
def test_pytrees_of_narrow_leaves_are_worked_in_float32(estimate):
    like = {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": {"c": jnp.bfloat16(0)}}
    result = estimate(lambda v: jax.tree.map(lambda x: 3 * x, v), like, key=0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(result))
    total = sum(float(jnp.sum(x)) for x in jax.tree.leaves(result.value))
    assert total == (63 if estimate is estimates.frobenius_squared else 21)
    if estimate is estimates.diagonal:
        assert result.value["b"]["c"].shape == ()


@pytest.mark.parametrize("estimate", TRACE_FIRST)
def test_the_caller_may_compile_it(estimate):
    inside = jax.jit(lambda m: estimate(m, LIKE, key=0))(dense(MATRIX))
    outside = estimate(dense(MATRIX), LIKE, key=0)
    np.testing.assert_allclose(inside.value, outside.value, rtol=1e-5, atol=1e-6)
    assert inside.event == outside.event


@pytest.mark.slow
def test_data_on_two_devices_gives_the_numbers_of_one():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    one = estimates.trace(dense(MATRIX), LIKE, key=0)
    two = estimates.trace(
        dense(jax.device_put(jnp.asarray(MATRIX), by_rows)), LIKE, key=0
    )
    np.testing.assert_allclose(one.value, two.value, rtol=1e-5)
    np.testing.assert_allclose(one.stderr, two.stderr, rtol=1e-5)


def test_r16_xtrace_of_matfree_agrees():
    stochtrace = pytest.importorskip("matfree.stochtrace")
    matrix = jnp.asarray(MATRIX)
    xtrace = stochtrace.estimator_leave_one_out(
        stochtrace.leave_one_out_xtrace(),
        stochtrace.sampler_normal(LIKE, num=20),
    )
    want = xtrace(lambda v: matrix @ v, jax.random.key(0))
    want = want[0] if isinstance(want, tuple) else want
    ours = estimates.trace(dense(MATRIX), LIKE, key=0, num_probes=400)
    assert abs(float(jnp.mean(jnp.asarray(want))) - ours.value) < 5 * ours.stderr


@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize(("num_probes", "error"), [(0, ValueError), (1.5, TypeError)])
def test_counts_that_cannot_be_are_refused(estimate, num_probes, error):
    with pytest.raises(error, match="num_probes"):
        estimate(dense(MATRIX), LIKE, key=0, num_probes=num_probes)
