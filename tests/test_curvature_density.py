"""The spectral density: weights, moments and the smoothed curve."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense, marchenko_pastur, rotated

from dpjax.curvature import density
from dpjax.curvature.matvec import MatVec

LIKE = jnp.zeros(400)
OPTIONS = {"key": 0, "num_probes": 8, "num_steps": 40}


@pytest.fixture(scope="module")
def wishart():
    return density.spectral_density(dense(marchenko_pastur()), LIKE, **OPTIONS)


def test_r11_weights_of_each_probe_sum_to_one(wishart):
    assert wishart.nodes.shape == wishart.weights.shape == (8, 40)
    np.testing.assert_allclose(np.sum(wishart.weights, 1), np.ones(8), atol=1e-6)
    assert np.all(np.asarray(wishart.weights) >= 0)
    assert wishart.event == dp_accounting.NoOpDpEvent()


@pytest.mark.slow
def test_r8_moments_and_edges_of_marchenko_and_pastur(wishart):
    exact = np.linalg.eigvalsh(marchenko_pastur().astype(float))
    for power in (1, 2, 3):
        moment = wishart.trace_of(lambda x, power=power: x**power)
        want = (exact**power).sum()
        assert abs(moment.value - want) < 4 * moment.stderr + 1e-4 * want
    second = wishart.trace_of(jnp.square).value / 400
    np.testing.assert_allclose(second, 1.5, rtol=0.05)
    np.testing.assert_allclose(jnp.max(wishart.nodes), exact[-1], rtol=1e-2)
    np.testing.assert_allclose(jnp.min(wishart.nodes), exact[0], atol=5e-3)


def test_r8_the_curve_is_that_of_marchenko_and_pastur(wishart):
    low, high = (1 - np.sqrt(0.5)) ** 2, (1 + np.sqrt(0.5)) ** 2
    grid = np.linspace(0.4, 2.5, 60)
    want = np.sqrt((high - grid) * (grid - low)) / (2 * np.pi * 0.5 * grid)
    got = wishart.density(grid, bandwidth=0.1)
    assert np.abs(np.asarray(got) - want).max() < 0.1


@pytest.mark.parametrize("bandwidth", [None, 0.02, 0.5])
def test_r11_the_curve_integrates_to_one(wishart, bandwidth):
    grid = wishart.grid(4000, bandwidth=bandwidth)
    curve = wishart.density(grid, bandwidth=bandwidth)
    np.testing.assert_allclose(np.trapezoid(curve, grid), 1, rtol=1e-3)
    assert grid[0] < jnp.min(wishart.nodes) < jnp.max(wishart.nodes) < grid[-1]


def test_r11_as_many_steps_as_dimensions_are_exact():
    values = np.r_[-2.0, 0.5, 3.0, 4.0, 7.0]
    result = density.spectral_density(
        dense(rotated(values).astype(np.float32)),
        jnp.zeros(5),
        key=0,
        num_probes=1,
        num_steps=5,
    )
    np.testing.assert_allclose(result.nodes[0], values, atol=1e-5)
    # A diagonal operator of n dimensions has weight 1 / n at each of its eigenvalues.
    plain = density.spectral_density(
        dense(np.diag(values).astype(np.float32)),
        jnp.zeros(5),
        key=0,
        num_probes=1,
        num_steps=5,
    )
    np.testing.assert_allclose(plain.weights[0], np.full(5, 0.2), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_one_eigenvalue_is_one_mass(value):
    matrix = (value * np.eye(20)).astype(np.float32)
    result = density.spectral_density(
        dense(matrix), jnp.zeros(20), key=0, num_probes=2, num_steps=6
    )
    np.testing.assert_allclose(result.nodes, np.full((2, 6), value), atol=1e-5)
    np.testing.assert_allclose(np.sum(result.weights, 1), [1, 1], atol=1e-6)
    grid = result.grid(500)
    np.testing.assert_allclose(np.trapezoid(result.density(grid), grid), 1, rtol=1e-3)


@pytest.mark.slow
def test_matfree_invents_eigenvalues_of_the_identity_and_we_do_not():
    decomp = pytest.importorskip("matfree.decomp")
    start = jax.random.normal(jax.random.key(0), (20,))
    tridiag = decomp.tridiag_sym(5, materialize=True)
    small = np.asarray(tridiag(lambda v: v, start)[1], float)
    theirs = np.linalg.eigvalsh(small) if np.isfinite(small).all() else [np.nan]
    assert not np.allclose(theirs, 1, atol=0.1)
    ours = density.spectral_density(
        MatVec(lambda v: v), jnp.zeros(20), key=0, num_probes=1, num_steps=5
    )
    np.testing.assert_allclose(ours.nodes, np.ones((1, 5)), rtol=1e-6)


@pytest.mark.slow
def test_two_values_have_their_shares():
    values = np.r_[np.full(30, 1.0), np.full(10, 5.0)]
    result = density.spectral_density(
        dense(rotated(values).astype(np.float32)),
        jnp.zeros(40),
        key=0,
        num_probes=200,
        num_steps=3,
    )
    share = result.trace_of(lambda x: (x > 3).astype(x.dtype))
    assert abs(share.value - 10) < 4 * share.stderr
    assert share.stderr < 0.5


@pytest.mark.slow
def test_the_scale_of_the_operator_scales_the_nodes():
    matrix = marchenko_pastur(60, 120)
    plain, tiny = (
        density.spectral_density(
            dense(scale * matrix), jnp.zeros(60), key=0, num_probes=2, num_steps=10
        )
        for scale in np.float32([1, 1e-30])
    )
    np.testing.assert_allclose(tiny.nodes / np.float32(1e-30), plain.nodes, rtol=2e-4)
    np.testing.assert_allclose(tiny.weights, plain.weights, atol=2e-4)
    grid = tiny.grid(500)
    np.testing.assert_allclose(np.trapezoid(tiny.density(grid), grid), 1, rtol=0.01)


@pytest.mark.slow
def test_looking_again_costs_no_products():
    calls = []

    def multiply(vector):
        calls.append(None)
        return vector

    matvec = MatVec(multiply, traceable=False)
    result = density.spectral_density(
        matvec, jnp.zeros(9), key=0, num_probes=3, num_steps=4
    )
    assert len(calls) == 12
    result.density(result.grid(), bandwidth=0.3)
    result.trace_of(jnp.exp)
    assert len(calls) == 12


@pytest.mark.slow
def test_the_caller_may_compile_it():
    matvec = dense(marchenko_pastur(60, 120))

    def run(matvec):
        result = density.spectral_density(
            matvec, jnp.zeros(60), key=0, num_probes=2, num_steps=10
        )
        return result.density(jnp.linspace(0, 3, 20), bandwidth=0.2), result

    (inside, result), (outside, _) = jax.jit(run)(matvec), run(matvec)
    np.testing.assert_allclose(inside, outside, atol=1e-4)
    assert result.size == 60


@pytest.mark.slow
def test_a_product_that_is_not_finite_gives_nans():
    matrix = np.full((9, 9), np.nan, np.float32)
    result = density.spectral_density(dense(matrix), jnp.zeros(9), key=0, num_steps=3)
    assert np.isnan(result.nodes).all()
    assert np.isnan(result.trace_of(jnp.exp).value)
    assert np.isnan(result.density(jnp.zeros(2), bandwidth=1.0)).all()


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.nan])
def test_a_bandwidth_that_is_not_positive_is_refused(wishart, bandwidth):
    with pytest.raises(ValueError, match="Expected"):
        wishart.density(jnp.zeros(3), bandwidth=bandwidth)
