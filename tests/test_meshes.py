"""What an array's type says of where it lives, and what follows from it."""

import contextlib

import curvature_meshed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax import _meshes


def explicit(*shape):
    return curvature_meshed.mesh_of(shape, "explicit")


def put(array, mesh, *spec):
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.P(*spec)))


def entered(mesh):
    return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def test_only_explicit_axes_are_in_the_type():
    array = np.ones((2, 4))
    auto = put(array, curvature_meshed.mesh_of((2, 1), "auto"), "data")
    split = put(array, explicit(2, 1), "data")
    assert _meshes.sharding_of(array) is None
    assert _meshes.sharding_of(auto) is None
    assert _meshes.sharding_of(split).spec == jax.P("data", None)
    whole = put(array, explicit(2, 1))
    assert [_meshes.is_split({"a": leaf}) for leaf in (array, auto, whole, split)] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("mesh", [None, (2, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_pieces_hold_every_example_once_and_keep_pairs_together(mesh, size):
    mesh = mesh and explicit(*mesh)
    x = jnp.arange(6)
    with entered(mesh):
        batch = (put(x, mesh, "data"), x + 10) if mesh else (x, x + 10)
        pieces, rest = jax.jit(_meshes.pieces, static_argnums=1)(batch, size)
    assert all(leaf.shape == (6 // size, size) for leaf in pieces)
    flat = [np.ravel(leaf) for leaf in pieces]
    if rest is not None:
        assert rest[0].shape == (6 % size,)
        flat = [np.r_[a, b] for a, b in zip(flat, rest, strict=True)]
    np.testing.assert_array_equal(np.sort(flat[0]), x)
    np.testing.assert_array_equal(flat[1], flat[0] + 10)


def test_pieces_that_can_take_as_many_from_every_device_stay_there():
    mesh = explicit(2, 1)
    batch = put(jnp.arange(8), mesh, "data")
    with jax.set_mesh(mesh):
        pieces, _ = jax.jit(_meshes.pieces, static_argnums=1)(batch, 4)
    assert jax.typeof(pieces).sharding.spec == jax.P(None, "data")
    np.testing.assert_array_equal(pieces, [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_axis_zero_is_split_as_that_of_the_first_array_that_is():
    mesh = explicit(2, 1)
    whole, split = put(np.ones((4, 2)), mesh), put(np.ones((4, 2)), mesh, "data")
    assert _meshes.spec_of(np.ones(2)) == jax.P()
    assert _meshes.spec_of(split) == jax.P("data", None)
    assert _meshes.spec_of_examples([np.ones(4), whole]) == jax.P()
    assert _meshes.spec_of_examples([whole, split]) == jax.P("data")
    assert _meshes.spec_of_examples([put(np.ones(()), mesh), split]) == jax.P("data")
