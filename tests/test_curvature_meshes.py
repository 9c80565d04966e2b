"""Curvature is the same on a mesh of devices as on one, whatever its axes are."""

import contextlib
import json
import pathlib
import subprocess
import sys

import curvature_meshed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.curvature import meshes

SCRIPT = pathlib.Path(curvature_meshed.__file__)
FEW_ROUNDINGS = 1e-5
"""Float32 sums over devices in another order, through ten products."""

FIRST = ("extremes", "microbatches_that_fit")
"""The others take a process of their own, with eight devices."""


def explicit(*shape):
    return curvature_meshed.mesh_of(shape, "explicit")


def put(array, mesh, *spec):
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.P(*spec)))


def entered(mesh):
    return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


@pytest.mark.parametrize("case", FIRST)
def test_explicit_axes_give_the_numbers_of_one_device(case):
    run, mesh = curvature_meshed.CASES[case], explicit(1, 2)
    expected = run(curvature_meshed.Problem())
    found = run(curvature_meshed.Problem(mesh))
    assert curvature_meshed.error(expected, found) < FEW_ROUNDINGS
    with jax.set_mesh(mesh):
        inside = run(curvature_meshed.Problem(mesh))
    assert curvature_meshed.error(expected, inside) < FEW_ROUNDINGS


@pytest.mark.slow
@pytest.mark.parametrize("kind", curvature_meshed.AXIS_TYPES)
def test_eight_devices_give_the_numbers_of_one(kind):
    command = [sys.executable, str(SCRIPT), kind]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    errors = json.loads(ran.stdout)
    assert errors.keys() == curvature_meshed.CASES.keys()
    assert {name: e for name, e in errors.items() if not e < FEW_ROUNDINGS} == {}


@pytest.mark.parametrize(
    "case", ["diagonal", pytest.param("inverse", marks=pytest.mark.slow)]
)
def test_results_are_split_as_the_parameters_are(case):
    problem = curvature_meshed.Problem(explicit(1, 2))
    found = curvature_meshed.CASES[case](problem)
    expected = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, problem.params)
    assert jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, found) == expected


def test_only_explicit_axes_are_in_the_type():
    array = np.ones((2, 4))
    auto = put(array, curvature_meshed.mesh_of((2, 1), "auto"), "data")
    split = put(array, explicit(2, 1), "data")
    assert meshes.sharding_of(array) is None
    assert meshes.sharding_of(auto) is None
    assert meshes.sharding_of(split).spec == jax.P("data", None)
    whole = put(array, explicit(2, 1))
    assert [meshes.is_split({"a": leaf}) for leaf in (array, auto, whole, split)] == [
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
        pieces, rest = jax.jit(meshes.pieces, static_argnums=1)(batch, size)
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
        pieces, _ = jax.jit(meshes.pieces, static_argnums=1)(batch, 4)
    assert jax.typeof(pieces).sharding.spec == jax.P(None, "data")
    np.testing.assert_array_equal(pieces, [[0, 2, 4, 6], [1, 3, 5, 7]])
