"""Quadratic forms of every operator are those of its products."""

import dataclasses

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    cross_entropy,
    flops,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
    vector_like,
)

from dpjax.curvature import Private, Public, estimates, vectors
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.true_fisher import sampled_fisher_operator, true_fisher_operator


def hessian(batch, params, **options):
    return hessian_operator(mlp_loss, params, batch, **options)


def ggn(batch, params, **options):
    return ggn_operator(mlp, cross_entropy, params, batch, **options)


def fisher(batch, params, **options):
    return fisher_operator(mlp_loss, params, batch, **options)


def without_targets(batch):
    return dataclasses.replace(batch, batch=batch.batch[:1])


def true_fisher(batch, params, **options):
    inputs = without_targets(batch)
    options = {"num_classes": 5, **options}
    return true_fisher_operator(mlp, cross_entropy, params, inputs, **options)


def sampled_fisher(batch, params, **options):
    inputs = without_targets(batch)
    options = {"sample": jax.random.categorical, "key": 0, "num_samples": 3, **options}
    return sampled_fisher_operator(mlp, cross_entropy, params, inputs, **options)


OPERATORS = [hessian, ggn, fisher, true_fisher, sampled_fisher]
every_operator = pytest.mark.parametrize("operator", OPERATORS)


@every_operator
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_the_form_is_that_of_the_product(operator, microbatch_size):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(float), mlp_params())
        batch = Public(mlp_batch())
        matvec = operator(batch, params, microbatch_size=microbatch_size)
        vector = vector_like(params)
        found = matvec.form(vector, *matvec.operands)
        expected = vectors.dot(vector, matvec(vector))
        assert (found.shape, found.dtype) == ((), jnp.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert abs(found) > 1e-3


@every_operator
def test_parameters_in_lower_precision_are_cast_up(operator):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    matvec = operator(Public(mlp_batch()), params)
    vector = vector_like(mlp_params())
    found = matvec.form(vector, *matvec.operands)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, vectors.dot(vector, matvec(vector)), rtol=1e-5)


@every_operator
def test_the_trace_is_that_of_products_and_costs_what_they_do(operator):
    matvec = operator(Private(mlp_batch()), mlp_params())
    found, expected = (
        estimates.trace(of, mlp_params(), key=5, num_probes=4)
        for of in (matvec, dataclasses.replace(matvec, form=None))
    )
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-3)
    assert found.event == expected.event == dp_accounting.NonPrivateDpEvent()


@every_operator
def test_an_example_that_is_not_finite_makes_it_nan(operator):
    x, labels = mlp_batch()
    # Not the first, whose probabilities are checked.
    matvec = operator(Public((x.at[1].set(np.nan), labels)), mlp_params())
    assert np.isnan(matvec.form(vector_like(mlp_params()), *matvec.operands))


@every_operator
def test_it_takes_fewer_operations_than_the_product(operator):
    matvec = operator(Public(mlp_batch()), mlp_params())
    vector = vector_like(mlp_params())
    form = flops(lambda v: matvec.form(v, *matvec.operands), vector)
    assert form < flops(matvec, vector)


@pytest.mark.parametrize("operator", [hessian, ggn, fisher])
def test_devices_that_share_the_parameters_add_up(operator):
    x, labels = (np.repeat(part, 2, axis=0) for part in mlp_batch())

    def trace(*batch):
        matvec = operator(Public(batch), mlp_params())
        return estimates.trace(matvec, mlp_params(), key=0, num_probes=3).value

    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(trace, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P())
    # The mean over each half, and their sum, as of gradients there.
    np.testing.assert_allclose(split(x, labels), 2 * trace(x, labels), rtol=1e-5)
