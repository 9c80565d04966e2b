"""Systems of equations with curvature matrices."""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    Counted,
    assert_trees_close,
    cross_entropy,
    mlp,
    mlp_batch,
    mlp_params,
    on_two_devices,
    vector_like,
)
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dpjax.curvature import MatVec, Public
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.inverse import inverse_hvp
from dpjax.curvature.matrices import dense

DIAGONAL = np.array([1.0, 10.0, 100.0, 1000.0])


def times(vector, diagonal):
    return diagonal * vector


def diagonal_operator(**options):
    return MatVec(times, (jnp.asarray(DIAGONAL),), **options)


def mlp_operator(batch=None):
    batch = mlp_batch() if batch is None else batch
    return ggn_operator(mlp, cross_entropy, mlp_params(), Public(batch))


every_way = pytest.mark.parametrize("traceable", [True, False])


@every_way
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_r1_of_a_quadratic_it_is_the_inverse(traceable, damping):
    with jax.enable_x64(True):
        vector = jnp.array([1.0, -2.0, 3.0, 4.0])
        solution = inverse_hvp(
            diagonal_operator(traceable=traceable),
            vector,
            damping=damping,
            tolerance=1e-12,
        )
        np.testing.assert_allclose(solution.value, vector / (DIAGONAL + damping))
        assert solution.residual < 1e-12


@functools.cache
def mlp_matrix():
    return np.asarray(dense(mlp_operator(), mlp_params()).value)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 10))
def test_it_solves_what_a_dense_solver_solves(seed, damping):
    with jax.enable_x64(True):
        matvec, vector = mlp_operator(), vector_like(mlp_params(), seed)
        solution = inverse_hvp(matvec, vector, damping=damping, tolerance=1e-12)
        flat = ravel_pytree(vector)[0]
        matrix = mlp_matrix() + damping * np.eye(flat.size)
        expected = np.linalg.solve(matrix, flat)
        actual = ravel_pytree(solution.value)[0]
        np.testing.assert_allclose(actual, expected, atol=1e-8 * abs(expected).max())


@every_way
def test_the_residual_says_that_it_stopped_too_early(traceable):
    matvec, vector = diagonal_operator(traceable=traceable), jnp.ones(4)
    early = inverse_hvp(matvec, vector, damping=0.0, max_steps=2)
    rest = 1 - DIAGONAL * np.asarray(early.value, np.float64)
    np.testing.assert_allclose(early.residual, np.linalg.norm(rest) / 2, rtol=1e-4)
    assert early.residual > 0.1
    assert inverse_hvp(matvec, vector, damping=0.0, max_steps=8).residual < 1e-4


def test_a_singular_system_without_a_solution_has_a_residual():
    matvec = MatVec(times, (jnp.array([1.0, 0.0]),))
    solution = inverse_hvp(matvec, jnp.ones(2), damping=0.0)
    assert not solution.residual < 0.5


@every_way
def test_zero_has_the_solution_zero(traceable):
    matvec = diagonal_operator(traceable=traceable)
    solution = inverse_hvp(matvec, jnp.zeros(4), damping=1.0)
    np.testing.assert_array_equal(solution.value, np.zeros(4))
    assert solution.residual == 0


@every_way
def test_a_right_hand_side_that_is_not_finite_has_no_solution(traceable):
    for bad in (np.nan, np.inf):
        vector = jnp.array([bad, 1.0, 1.0, 1.0])
        matvec = diagonal_operator(traceable=traceable)
        solution = inverse_hvp(matvec, vector, damping=1.0)
        assert np.isnan(solution.value).all()
        assert np.isnan(solution.residual)


@every_way
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_right_hand_side_scales_the_solution(traceable, scale):
    # Its squares are beyond what float32 holds.
    matvec = diagonal_operator(traceable=traceable)
    solution = inverse_hvp(matvec, scale * jnp.arange(1.0, 5), damping=1.0)
    expected = scale * np.arange(1.0, 5) / (DIAGONAL + 1)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-4)
    assert solution.residual < 1e-4


@every_way
def test_products_that_are_no_vectors_are_refused(traceable):
    def solve(function):
        matvec = MatVec(function, traceable=traceable)
        return inverse_hvp(matvec, jnp.ones(4), damping=1.0)

    with pytest.raises(ValueError, match=r"matvec\(vector\)"):
        solve(jnp.sum)
    with pytest.raises(TypeError, match="real leaves"):
        solve(lambda vector: 1j * vector)


def test_an_operator_that_is_not_finite_has_no_solution():
    x, labels = mlp_batch()
    matvec = mlp_operator((x.at[0, 0].set(np.nan), labels))
    solution = inverse_hvp(matvec, vector_like(mlp_params()), damping=1.0)
    assert np.isnan(solution.residual)
    assert np.isnan(ravel_pytree(solution.value)[0]).all()


def test_jit_with_a_traced_damping_changes_nothing():
    matvec, vector = mlp_operator(), vector_like(mlp_params())
    plain = inverse_hvp(matvec, vector, damping=0.5)
    jitted = jax.jit(lambda a, v, d: inverse_hvp(a, v, damping=d))(matvec, vector, 0.5)
    assert_trees_close(jitted.value, plain.value, atol=1e-6)
    assert jitted.event == plain.event == dp_accounting.NoOpDpEvent()


@pytest.mark.slow
def test_two_devices_give_what_one_gives():
    batch, vector = mlp_batch(8), vector_like(mlp_params())
    matvec = mlp_operator(on_two_devices(batch, ["data"]))
    two = inverse_hvp(matvec, on_two_devices(vector, []), damping=0.5)
    one = inverse_hvp(mlp_operator(batch), vector, damping=0.5)
    assert_trees_close(two.value, one.value, atol=1e-5)


def test_new_operands_compile_nothing_anew_and_bare_callables_see_what_changes():
    counted = Counted(times)
    for scale in (1.0, 2.0):
        matvec = MatVec(counted, (jnp.full(4, scale),))
        value = inverse_hvp(matvec, jnp.ones(4), damping=0.0).value
        np.testing.assert_allclose(value, np.ones(4) / scale)
        if scale == 1:
            traced = len(counted.calls)
    assert len(counted.calls) == traced
    state = {}

    def bare(vector):
        return state["scale"] * vector

    for scale in (1.0, 2.0):
        state["scale"] = scale
        value = inverse_hvp(bare, jnp.ones(4), damping=0.0).value
        np.testing.assert_allclose(value, np.ones(4) / scale)


@pytest.mark.slow
def test_vectors_in_low_precision_are_cast_up():
    low = jnp.ones(4, jnp.bfloat16)
    solution = inverse_hvp(diagonal_operator(), low, damping=0.0)
    assert solution.value.dtype == jnp.float32
    np.testing.assert_allclose(solution.value, 1 / DIAGONAL, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"damping": -1.0}, ValueError, "damping"),
        ({"damping": np.nan}, ValueError, "damping"),
        ({"damping": 1.0, "tolerance": -1.0}, ValueError, "tolerance"),
        ({"damping": 1.0, "max_steps": 0}, ValueError, "max_steps"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        inverse_hvp(diagonal_operator(), jnp.ones(4), **options)


def test_the_right_hand_side_is_checked():
    with pytest.raises(TypeError, match="floating-point"):
        inverse_hvp(diagonal_operator(), jnp.arange(4), damping=1.0)
