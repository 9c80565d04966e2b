"""What all operators over examples share: pieces, precision, operands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import Counted
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax import _check
from dpjax.curvature import Public, means


def weighted(params, vector, weight, batch, function):
    """Return the weighted sum over examples of function(x_i) times the vector."""
    return jax.tree.map(lambda v: weight * jnp.sum(function(batch[0])) * v, vector)


@settings(max_examples=25)
@given(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 12)))
def test_it_is_the_mean_whatever_the_pieces(num_examples, microbatch_size):
    x = jnp.arange(1.0, num_examples + 1)
    matvec = means.mean_operator(
        weighted, (jnp.square,), jnp.ones(2), Public(x), microbatch_size
    )
    expected = np.mean(np.square(x)) * np.array([1.0, 2.0])
    np.testing.assert_allclose(matvec(jnp.array([1.0, 2.0])), expected, rtol=1e-6)


def test_keys_are_examples_too():
    keys = jax.random.split(jax.random.key(0), 5)

    def total(params, vector, weight, batch):
        return weight * jnp.sum(jax.vmap(jax.random.normal)(batch[0])) * vector

    whole, pieces = (
        means.mean_operator(total, (), jnp.ones(()), Public(keys), size)(jnp.ones(()))
        for size in (None, 2)
    )
    np.testing.assert_allclose(whole, pieces, rtol=1e-6)


def test_a_function_may_hold_arrays_that_do_not_compile_anew():
    counted = Counted(lambda factor, x: factor * x)
    for factor in (2.0, 3.0):
        function = jax.tree_util.Partial(counted, jnp.float32(factor))
        matvec = means.mean_operator(
            weighted, (function,), jnp.ones(()), Public(jnp.ones(4)), None
        )
        assert matvec(jnp.ones(())) == factor
    assert len(counted.calls) == 1


@pytest.mark.parametrize(
    ("params", "vector", "expected"),
    [
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
    ],
)
def test_parameters_and_vector_meet_in_the_wider_type(params, vector, expected):
    with jax.enable_x64(True):
        met = means.in_one_precision(jnp.ones(2, params), jnp.ones(2, vector))
        assert [leaf.dtype.name for leaf in met] == [expected] * 2


def test_each_leaf_has_its_own_precision():
    with jax.enable_x64(True):
        tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
        dtypes = jax.tree.map(lambda leaf: leaf.dtype.name, means.widened(tree))
        assert dtypes == {"a": "float32", "b": "float64"}


def test_losses_are_in_float32_at_least_and_scalars():
    low = means.losses(jnp.vdot, jnp.ones((3, 2), jnp.bfloat16), jnp.ones((3, 2)))
    assert low.shape == (3,)
    assert low.dtype == jnp.float32
    assert means.losses(jnp.sum, jnp.ones((3, 2), jnp.float16)).dtype == jnp.float32
    with pytest.raises(ValueError, match="scalar"):
        means.losses(jnp.square, jnp.ones((3, 2)))
    with pytest.raises(TypeError, match="real floating-point loss"):
        means.losses(jnp.sum, jnp.ones((3, 2), int))


def test_products_of_matrices_are_in_full_precision():
    product = means.exact_jit(lambda a, b: a @ b)
    assert "HIGHEST" in product.lower(jnp.ones((2, 2)), jnp.ones((2, 2))).as_text()
    assert jax.config.jax_default_matmul_precision is None


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.arange(2), "floating-point leaves"),
        (True, "floating-point leaves"),
        (jnp.ones(2, jnp.complex64), "real leaves"),
    ],
)
def test_only_real_numbers_have_curvature(leaf, message):
    with pytest.raises(TypeError, match=rf"{message}, got tree\['a'\].dtype="):
        _check.real_leaves("tree", {"a": leaf, "b": jnp.ones(2)})
