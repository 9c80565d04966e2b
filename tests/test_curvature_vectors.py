"""Vectors shaped like a pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.curvature import vectors

LIKE = {"a": jnp.zeros((2, 3)), "b": [jnp.float32(0), jnp.zeros(5, jnp.bfloat16)]}


def test_a_space_is_a_value():
    space = vectors.space_of(LIKE)
    assert space == vectors.space_of(jax.eval_shape(lambda: LIKE))
    assert hash(space) == hash(vectors.space_of(LIKE))
    assert space.size == 12
    assert space.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in space.leaves)
    assert jax.tree.structure(space.like) == jax.tree.structure(LIKE)


@pytest.mark.parametrize(
    ("like", "error", "match"),
    [
        ({"a": jnp.zeros(2), "b": jnp.zeros(2, int)}, TypeError, r"\['b'\]\.dtype"),
        ({"a": jnp.zeros(2, complex)}, TypeError, "real leaves"),
        ({}, ValueError, "at least one array"),
        ({"a": jnp.zeros((0, 3))}, ValueError, "at least one value"),
    ],
)
def test_what_is_no_vector_is_refused(like, error, match):
    with pytest.raises(error, match=match):
        vectors.space_of(like)


def test_signs_are_fair_and_leaves_independent():
    like = {"a": jnp.zeros((100, 100)), "b": jnp.zeros((100, 100))}
    drawn = vectors.signs(vectors.space_of(like), jax.random.key(0))
    a, b = (np.asarray(drawn[name]) for name in "ab")
    assert set(np.unique(a)) == {-1.0, 1.0}
    # Means of 10,000 fair signs: five standard errors are 0.05.
    for mean in (a.mean(), b.mean(), (a * b).mean(), (a[1:] * a[:-1]).mean()):
        assert abs(mean) < 0.05


@pytest.mark.parametrize("size", [1, 31, 32, 33, 65])
def test_signs_fill_every_length(size):
    space = vectors.space_of(jnp.zeros(size))
    drawn = np.asarray(vectors.signs(space, jax.random.key(1)))
    assert drawn.shape == (size,)
    assert set(np.unique(drawn)) <= {-1.0, 1.0}


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1.0, 1e30, 3e38])
def test_lengths_neither_overflow_nor_underflow(scale):
    x = jax.tree.map(lambda leaf: jnp.full(leaf.shape, scale, jnp.float32), LIKE)
    unit = vectors.normalised(x)
    np.testing.assert_allclose(vectors.dot(unit, unit), 1, rtol=1e-6)


def test_zero_has_no_direction_and_stays_zero():
    zero = vectors.normalised(jnp.zeros(3))
    np.testing.assert_array_equal(zero, np.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad):
    assert np.isnan(vectors.normalised(jnp.array([1.0, bad]))).any()


def test_products_with_a_basis_are_those_of_the_flat_matrices():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 12)).astype(np.float32)
    flat = rng.normal(size=12).astype(np.float32)

    def tree(values):
        lead = values.shape[:-1]
        a, b, c = np.split(values, [6, 7], axis=-1)
        return {
            "a": jnp.asarray(a.reshape(*lead, 2, 3)),
            "b": [jnp.asarray(b.reshape(lead)), jnp.asarray(c)],
        }

    weights = vectors.coefficients(tree(rows), tree(flat))
    np.testing.assert_allclose(weights, rows @ flat, rtol=1e-5)
    np.testing.assert_allclose(
        vectors.combination(tree(rows), weights)["b"][1],
        (np.asarray(weights) @ rows)[7:],
        rtol=1e-5,
    )


def test_no_rank_is_promoted():
    space = vectors.space_of(jnp.zeros(5))
    with jax.numpy_rank_promotion("raise"):
        vectors.signs(space, jax.random.key(0))
