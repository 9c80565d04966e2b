"""Both ends of the spectrum without a basis."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense, rotated

from dpjax.curvature import extremes, krylov

VALUES = np.r_[-4.0, -1.0, np.linspace(0, 1, 96), 6.0, 9.0]
ROUNDED = 100 * 9 * 2.0**-24
"""What 100 steps may add up to, each wrong by half a unit in the norm's last place."""


def slow(values):
    return pytest.param(*values, marks=pytest.mark.slow)


def ends(matrix, num_steps, **options):
    matrix = np.asarray(matrix, np.float32)
    matvec = dense(matrix, traceable=options.pop("traceable", True))
    return extremes.extreme_eigenvalues(
        matvec, jnp.zeros(len(matrix)), key=1, num_steps=num_steps, **options
    )


@pytest.mark.parametrize(
    ("num_steps", "traceable"),
    [
        (10, True),
        (10, False),
        (100, True),
        *map(slow, [(3, True), (30, True), (3, False), (30, False), (100, False)]),
    ],
)
def test_the_ends_are_within_the_spectrum_and_within_their_residuals(
    num_steps, traceable
):
    found = ends(rotated(VALUES), num_steps, traceable=traceable)
    for value, residual in zip(
        (found.largest, found.smallest), found.residuals, strict=True
    ):
        assert -4 - ROUNDED <= value <= 9 + ROUNDED
        assert abs(VALUES - float(value)).min() <= residual + ROUNDED
    assert found.event == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize("num_steps", [*map(slow, [(30,), (60,)]), 100])
def test_ghosts_do_not_move_the_ends(num_steps):
    found = ends(rotated(VALUES), num_steps)
    np.testing.assert_allclose(found.largest, 9, rtol=2e-6)
    np.testing.assert_allclose(found.smallest, -4, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [*map(slow, [(1,), (2,)]), 10])
def test_few_steps_give_the_ends_of_the_lanczos_process(num_steps):
    matrix = rotated(VALUES).astype(np.float32)
    reduced = krylov.lanczos(dense(matrix), jnp.zeros(100), key=1, num_steps=num_steps)
    square = np.diag(reduced.diagonal) + sum(
        np.diag(reduced.off_diagonal, side) for side in (-1, 1)
    )
    found, values = ends(matrix, num_steps), np.linalg.eigvalsh(square)
    np.testing.assert_allclose(
        [found.smallest, found.largest], values[[0, -1]], rtol=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12, 1e-30])
@pytest.mark.parametrize(
    "values",
    [
        np.ones(20),
        np.zeros(20),
        -np.ones(20),
        np.r_[np.full(9, -5.0), np.full(11, -2.0)],
        np.r_[np.full(17, 0.0), 1.0, 2.0, 4.0],
    ],
    ids=["identity", "zero", "minus", "two values", "rank three"],
)
def test_degenerate_operators_have_their_exact_ends(values, scale):
    found = ends(rotated(values) * scale, 12)
    slack = 3e-6 * scale * max(abs(values))
    np.testing.assert_allclose(found.largest, values.max() * scale, atol=slack)
    np.testing.assert_allclose(found.smallest, values.min() * scale, atol=slack)
    assert np.all(np.asarray(found.residuals) <= slack + 1e-38)


@pytest.mark.slow
def test_a_good_start_needs_few_steps():
    matrix = rotated(VALUES)
    start = np.linalg.eigh(matrix)[1][:, -1] + 1e-3
    found = ends(matrix, 2, start=jnp.asarray(start, jnp.float32))
    assert abs(found.largest - 9) < 1e-3 < abs(ends(matrix, 2).largest - 9)


def test_trees_are_worked_inside_of_jit_and_products_are_counted():
    calls = []
    like = {"w": jnp.zeros((3, 2)), "b": jnp.zeros((), jnp.bfloat16)}

    def matvec(vector):
        jax.debug.callback(lambda: calls.append(1))
        return {"w": 2 * vector["w"], "b": 5 * vector["b"]}

    @jax.jit
    def run(key):
        return extremes.extreme_eigenvalues(matvec, like, key=key, num_steps=4)

    found = run(jax.random.key(0))
    jax.effects_barrier()
    assert len(calls) == 4
    np.testing.assert_allclose([found.smallest, found.largest], [2, 5], rtol=1e-5)
    assert found.largest.dtype == jnp.float32
    assert found.event is None


def test_a_product_that_is_not_finite_makes_nans():
    found = extremes.extreme_eigenvalues(
        lambda v: v.at[0].set(jnp.nan), jnp.zeros(5), key=0
    )
    assert np.isnan([found.largest, found.smallest]).all()


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, True])
def test_a_number_of_steps_out_of_range_is_refused(num_steps):
    with pytest.raises((ValueError, TypeError), match="num_steps"):
        ends(np.eye(3), num_steps)
