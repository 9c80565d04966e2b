"""The matrix of an operator."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.curvature import MatVec
from dpjax.curvature.matrices import LARGEST, dense

MATRIX = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 4.0]])


def on_tree(vector):
    flat = jnp.asarray(MATRIX) @ jnp.append(vector["a"], vector["b"])
    return {"a": flat[:2], "b": flat[2]}


LIKE = {"a": jnp.zeros(2), "b": jnp.zeros(())}


def test_it_is_the_matrix_in_the_order_of_ravel_pytree():
    np.testing.assert_array_equal(dense(on_tree, LIKE).value, MATRIX)


def test_its_columns_are_the_products_with_unit_vectors():
    shear = jnp.array([[1.0, 5.0], [0.0, 1.0]])
    np.testing.assert_array_equal(dense(lambda v: shear @ v, jnp.ones(2)).value, shear)


def test_shapes_are_enough():
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), LIKE)
    np.testing.assert_array_equal(dense(on_tree, like).value, MATRIX)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_it_is_float32_at_least(dtype):
    value = dense(on_tree, jax.tree.map(lambda leaf: leaf.astype(dtype), LIKE)).value
    assert value.dtype == jnp.float32


def test_it_is_float64_for_such_vectors():
    with jax.enable_x64(True):
        value = dense(lambda v: v / 3, jnp.ones(2)).value
        np.testing.assert_array_equal(value, np.eye(2) / 3)


def test_an_operator_on_the_host_gives_the_same():
    def numpy_only(vector):
        return np.asarray(MATRIX @ np.asarray(vector), np.float32)

    matvec = MatVec(numpy_only, traceable=False)
    np.testing.assert_array_equal(dense(matvec, jnp.ones(3)).value, MATRIX)


@pytest.mark.parametrize(
    "event", [None, dp_accounting.NoOpDpEvent(), dp_accounting.NonPrivateDpEvent()]
)
def test_its_event_is_that_of_the_operator(event):
    matvec = MatVec(jnp.negative, event=event)
    assert dense(matvec, jnp.ones(2)).event == event
    assert jax.jit(dense)(matvec, jnp.ones(2)).event == event


def test_what_is_too_large_is_refused_before_it_is_formed():
    with pytest.raises(ValueError, match=f"at most {LARGEST} rows"):
        dense(jnp.negative, jnp.ones(LARGEST + 1))
    with pytest.raises(TypeError, match="floating-point"):
        dense(jnp.negative, jnp.arange(3))
