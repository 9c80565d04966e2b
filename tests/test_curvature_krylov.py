"""Lanczos: exact on degenerate operators, at every scale, in every way to run it."""

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense, rotated
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.curvature import krylov, tridiagonal
from dpjax.curvature.matvec import MatVec

SIZE = 20
DEGENERATE = {
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "two values": np.r_[np.full(13, 3.0), np.full(7, -1.0)],
    "rank 3": np.r_[np.zeros(17), 1.0, 2.0, 3.0],
    "rank 1": np.r_[np.zeros(19), 5.0],
    "clusters": np.r_[np.full(9, 1.0), np.full(9, 1.0 + 1e-6), 2.0, -2.0],
}


def spectrum(reduced):
    return np.asarray(tridiagonal.eigh(reduced.diagonal, reduced.off_diagonal)[0])


def reduce(matvec, size=SIZE, num_steps=SIZE, key=1, **options):
    return krylov.lanczos(
        matvec, jnp.zeros(size), key=key, num_steps=num_steps, **options
    )


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12, 1e-30, 1e30])
@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("diagonal", [True, False])
def test_r2_degenerate_operators_keep_their_spectrum_with_multiplicity(
    name, scale, diagonal
):
    values = np.sort(DEGENERATE[name])
    matrix = np.diag(values) if diagonal else rotated(values)
    reduced = reduce(dense((scale * matrix).astype(np.float32)))
    got = spectrum(reduced) / np.float64(np.float32(scale))
    np.testing.assert_allclose(got, values, atol=3e-6 * max(abs(values).max(), 1e-9))
    gram = np.asarray(reduced.basis, np.float64) @ np.asarray(reduced.basis).T
    np.testing.assert_allclose(gram, np.eye(SIZE), atol=2e-6)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("num_steps", [pytest.param(3, marks=pytest.mark.slow), 7])
def test_r2_no_ritz_value_lies_outside_of_the_spectrum(name, num_steps):
    values = DEGENERATE[name]
    reduced = reduce(dense(rotated(values).astype(np.float32)), num_steps=num_steps)
    slack = 3e-6 * abs(values).max()
    assert spectrum(reduced).min() >= values.min() - slack
    assert spectrum(reduced).max() <= values.max() + slack


@pytest.mark.slow
def test_two_eigenvalues_leave_no_ghost():
    # The case of CuPy's eigsh (its pull requests 10098 and 10099): a fixed threshold
    # and a restart that is not orthogonal make copies of eigenvalues out of rounding.
    values = np.r_[np.ones(297), 100.0, 100.0, 100.0]
    reduced = reduce(dense(rotated(values).astype(np.float32)), 300, 12)
    found = spectrum(reduced)
    assert np.minimum(abs(found - 1), abs(found - 100)).max() < 100
    assert (found > 99).sum() <= 3
    full = spectrum(reduce(dense(rotated(values).astype(np.float32)), 300, 300))
    np.testing.assert_allclose(full, np.sort(values), atol=2e-3)


def test_a_breakdown_writes_a_zero_and_the_residual_of_an_exhausted_space_is_zero():
    reduced = reduce(dense(np.eye(SIZE, dtype=np.float32)), num_steps=4)
    np.testing.assert_array_equal(reduced.off_diagonal, np.zeros(3))
    full = reduce(dense(rotated(np.arange(20.0)).astype(np.float32)))
    assert float(full.residual) == 0


@settings(max_examples=15)
@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1e-3, 1.0, 5.0]), min_size=12)
    .map(lambda values: values[:12])
    .filter(lambda values: len(values) == 12),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_the_law_of_the_full_spectrum(values, exponent, seed):
    scale = np.float32(10.0**exponent)
    matrix = rotated(values, seed % 100).astype(np.float32) * scale
    got = spectrum(reduce(dense(matrix), 12, 12, key=seed)) / np.float64(scale)
    peak = max(np.abs(values).max(), 1e-9)
    np.testing.assert_allclose(got, np.sort(values), atol=5e-6 * peak)


@pytest.mark.slow
def test_the_three_term_relation_holds():
    matrix = rotated(np.linspace(-1, 4, 60)).astype(np.float32)
    reduced = reduce(dense(matrix), 60, 15)
    basis = np.asarray(reduced.basis, np.float64)
    small = np.diag(reduced.diagonal) + sum(
        np.diag(reduced.off_diagonal, shift) for shift in (1, -1)
    )
    rest = matrix @ basis.T - basis.T @ small
    np.testing.assert_allclose(rest[:, :-1], 0, atol=3e-6)
    np.testing.assert_allclose(np.linalg.norm(rest[:, -1]), reduced.residual, rtol=1e-4)


def test_r9_wigner_matrix_has_the_semicircle():
    noise = np.random.default_rng(0).normal(size=(400, 400))
    matrix = ((noise + noise.T) / np.sqrt(800)).astype(np.float32)
    reduced = reduce(dense(matrix), 400, 40)
    exact = np.linalg.eigvalsh(matrix.astype(float))
    values = spectrum(reduced)
    np.testing.assert_allclose(values[[0, -1]], exact[[0, -1]], atol=2e-3)
    np.testing.assert_allclose(values[[0, -1]], [-2, 2], atol=0.1)


def test_more_steps_than_dimensions_are_cut():
    reduced = reduce(dense(np.diag([1.0, 2.0, 3.0]).astype(np.float32)), 3, 50)
    assert reduced.diagonal.shape == (3,)
    np.testing.assert_allclose(spectrum(reduced), [1, 2, 3], rtol=1e-6)


def test_one_dimension_is_enough():
    reduced = krylov.lanczos(lambda v: 7 * v, jnp.zeros(()), key=0, num_steps=3)
    np.testing.assert_allclose(reduced.diagonal, [7.0], rtol=1e-6)
    assert reduced.off_diagonal.shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "traceable", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_a_product_that_is_not_finite_makes_nans(bad, traceable):
    matrix = np.eye(SIZE, dtype=np.float32)
    matrix[3, 4] = bad
    reduced = reduce(dense(matrix, traceable=traceable), num_steps=5)
    assert np.isnan(spectrum(reduced)).all()
    assert np.isnan(reduced.residual)


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_loop_on_the_host_gives_the_same(name):
    matrix = rotated(DEGENERATE[name]).astype(np.float32)
    scanned, looped = (
        spectrum(reduce(dense(matrix, traceable=flag))) for flag in (True, False)
    )
    np.testing.assert_allclose(scanned, looped, atol=1e-5)


def test_the_caller_may_compile_it():
    matrix = rotated(np.arange(20.0)).astype(np.float32)

    @jax.jit
    def run(matvec):
        return reduce(matvec, num_steps=8)

    inside, outside = run(dense(matrix)), reduce(dense(matrix), num_steps=8)
    assert inside.event == dp_accounting.NoOpDpEvent()
    np.testing.assert_allclose(inside.diagonal, outside.diagonal, rtol=2e-3)
    np.testing.assert_allclose(spectrum(inside)[-1], spectrum(outside)[-1], rtol=1e-5)


def test_pytrees_give_what_the_flat_vector_gives():
    like = {"a": {"b": jnp.zeros((3, 4)), "c": jnp.float32(0)}, "d": [jnp.zeros(7)]}
    scales = np.linspace(-3, 5, SIZE).astype(np.float32)
    rows = jax.tree.unflatten(
        jax.tree.structure(like),
        [scales[:12].reshape(3, 4), scales[12], scales[13:]],
    )

    def multiply(vector):
        return jax.tree.map(jnp.multiply, rows, vector)

    reduced = krylov.lanczos(multiply, like, key=0, num_steps=SIZE)
    np.testing.assert_allclose(spectrum(reduced), scales, atol=1e-5)
    stacked = jax.tree.map(lambda x: jnp.zeros((SIZE, *x.shape)), like)
    chex.assert_trees_all_equal_shapes_and_dtypes(reduced.basis, stacked)


@pytest.mark.slow
def test_narrow_leaves_are_worked_in_float32_and_wide_ones_as_they_are():
    like = {"w": jax.ShapeDtypeStruct((4,), jnp.bfloat16)}
    seen = []

    def multiply(vector):
        seen.append(vector["w"].dtype)
        return {"w": (3 * vector["w"]).astype(jnp.bfloat16)}

    reduced = krylov.lanczos(multiply, like, key=0, num_steps=2)
    assert set(seen) == {jnp.dtype("float32")}
    assert reduced.basis["w"].dtype == jnp.float32
    with jax.enable_x64(True):
        matrix = rotated(np.r_[np.ones(10), np.full(10, 1 + 1e-10)])
        like = jnp.zeros(SIZE, jnp.float64)
        wide = krylov.lanczos(dense(matrix), like, key=0, num_steps=SIZE)
        assert wide.diagonal.dtype == jnp.float64
        want = np.r_[np.ones(10), np.full(10, 1 + 1e-10)]
        np.testing.assert_allclose(spectrum(wide), want, rtol=1e-14)


def test_a_start_vector_is_where_it_begins_whatever_its_length():
    matvec = dense(np.diag(np.arange(20.0)).astype(np.float32))
    start = jnp.zeros(SIZE).at[4].set(1e-30)
    reduced = reduce(matvec, num_steps=3, start=start)
    np.testing.assert_allclose(reduced.basis[0], np.eye(SIZE)[4], atol=1e-7)
    assert reduced.diagonal[0] == 4
    assert reduced.off_diagonal[0] == 0
    zero = reduce(matvec, num_steps=3, start=jnp.zeros(SIZE))
    chex.assert_trees_all_equal(zero.basis, reduce(matvec, num_steps=3).basis)


@pytest.mark.parametrize("num_steps", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_it_costs_one_product_a_step(num_steps):
    calls = []

    def multiply(vector):
        calls.append(None)
        return vector * 2

    reduce(MatVec(multiply, traceable=False), num_steps=num_steps)
    assert len(calls) == num_steps
    calls.clear()
    count = lambda v: jax.pure_callback(multiply, v, v)  # noqa: E731
    jax.block_until_ready(reduce(count, num_steps=num_steps).diagonal)
    assert len(calls) == num_steps


@pytest.mark.slow
def test_data_on_two_devices_gives_the_numbers_of_one():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    matrix = jnp.asarray(rotated(np.arange(20.0) ** 2), jnp.float32)
    one = reduce(dense(matrix), num_steps=10)
    two = reduce(dense(jax.device_put(matrix, by_rows)), num_steps=10)
    np.testing.assert_allclose(spectrum(one)[-3:], spectrum(two)[-3:], rtol=1e-5)


def test_other_streams_are_not_its_own():
    first = reduce(dense(np.eye(SIZE, dtype=np.float32)), num_steps=1, key=3)
    plain = jax.random.uniform(jax.random.key(3), (SIZE,), minval=-1)
    plain = np.asarray(plain / jnp.linalg.norm(plain))
    assert abs(np.vdot(plain, first.basis[0])) < 0.9


@pytest.mark.slow
def test_a_million_dimensions_of_rank_three_stay_orthogonal():
    size = 10**6
    factors = np.linalg.qr(np.random.default_rng(0).normal(size=(size, 3)))[0]
    factors = jnp.asarray(factors * np.sqrt([1.0, 2.0, 3.0]), jnp.float32)
    reduced = reduce(MatVec(lambda v, f: f @ (f.T @ v), (factors,)), size, 10)
    basis = np.asarray(reduced.basis, np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(10), atol=3e-6)
    want = np.r_[np.zeros(7), 1, 2, 3]
    np.testing.assert_allclose(spectrum(reduced), want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_steps": 0}, ValueError, "an integer >= 1"),
        ({"num_steps": 2.0}, TypeError, "an integer"),
        ({"start": jnp.zeros(3)}, ValueError, "start"),
    ],
)
def test_wrong_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        reduce(dense(np.eye(SIZE, dtype=np.float32)), **options)
