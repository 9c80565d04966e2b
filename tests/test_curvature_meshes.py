"""Curvature is the same on a mesh of devices as on one, whatever its axes are."""

import json
import pathlib
import subprocess
import sys

import curvature_meshed
import jax
import pytest

SCRIPT = pathlib.Path(curvature_meshed.__file__)
FEW_ROUNDINGS = 1e-5
"""Float32 sums over devices in another order, through ten products."""

FIRST = ("extremes", "microbatches_that_fit")
"""The others take a process of their own, with eight devices."""


def explicit(*shape):
    return curvature_meshed.mesh_of(shape, "explicit")


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
