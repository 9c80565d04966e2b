"""A block of a curvature matrix is that part of the whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    Counted,
    cross_entropy,
    flops,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
)
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Public
from dpjax.curvature.blocks import restrict
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.matrices import dense

CHOICES = {
    "one layer": lambda path: path.startswith("['out']"),
    "all kernels": lambda path: path.endswith("['w']"),
    "one leaf": lambda path: path == "['hidden']['b']",
    "everything": lambda path: True,
}


def hessian(where, params, batch):
    return hessian_operator(*restrict(mlp_loss, params, where), batch)


def ggn(where, params, batch):
    model, block = restrict(mlp, params, where)
    return ggn_operator(model, cross_entropy, block, batch)


def fisher(where, params, batch):
    return fisher_operator(*restrict(mlp_loss, params, where), batch)


def rows(where, params):
    """Return which entries of the ravelled parameters are in the block."""
    mask = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, where(jax.tree_util.keystr(path))),
        params,
    )
    return np.asarray(ravel_pytree(mask)[0], bool)


FAST = [(hessian, "one layer"), (ggn, "one leaf"), (fisher, "all kernels")]
"""Each operator and each choice once, without that of everything."""


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        pair if pair in FAST else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in itertools.product([hessian, ggn, fisher], CHOICES)
    ],
)
def test_it_is_that_part_of_the_whole_matrix(operator, name):
    where = CHOICES[name]
    params, batch = mlp_params(), Public(mlp_batch())
    whole = dense(operator(lambda path: True, params, batch), params).value
    block = restrict(mlp_loss, params, where)
    part = dense(operator(where, params, batch), block.params).value
    inside = rows(where, params)
    np.testing.assert_allclose(part, whole[np.ix_(inside, inside)], atol=1e-6)


def test_the_function_joins_the_block_with_the_fixed_parameters():
    params, (x, labels) = mlp_params(), mlp_batch()
    block = restrict(mlp_loss, params, CHOICES["one layer"])
    assert block.params == {
        "hidden": {"w": None, "b": None},
        "out": params["out"],
    }
    expected = mlp_loss(params, x[0], labels[0])
    assert block.function(block.params, x[0], labels[0]) == expected
    zeros = jax.tree.map(jnp.zeros_like, block.params)
    uniform = block.function(zeros, x[0], labels[0])
    np.testing.assert_allclose(uniform, np.log(5), rtol=1e-6)


def test_parameters_that_hold_none_keep_it():
    params = {"a": None, "b": [jnp.ones(2), None, jnp.array(3.0)]}

    def loss(params, x):
        assert params["a"] is None
        assert params["b"][1] is None
        return x * jnp.sum(params["b"][0]) * params["b"][2]

    block = restrict(loss, params, lambda path: path == "['b'][2]")
    assert block.function(block.params, 5.0) == 30


def test_new_parameters_fixed_ones_too_compile_nothing_anew():
    loss = Counted(mlp_loss)
    for seed in range(3):
        block = restrict(loss, mlp_params(seed), CHOICES["one layer"])
        matvec = hessian_operator(*block, Public(mlp_batch()))
        product = matvec(block.params)
        if not seed:
            traced = len(loss.calls)
    assert len(loss.calls) == traced
    fresh = hessian_operator(
        *restrict(mlp_loss, mlp_params(2), CHOICES["one layer"]), Public(mlp_batch())
    )
    np.testing.assert_allclose(
        ravel_pytree(product)[0], ravel_pytree(fresh(block.params))[0], atol=1e-6
    )


@pytest.mark.slow
def test_a_block_of_a_block_is_a_block():
    params, batch = mlp_params(), Public(mlp_batch())
    outer = restrict(mlp_loss, params, CHOICES["one layer"])
    inner = restrict(*outer, CHOICES["all kernels"])
    once = restrict(mlp_loss, params, lambda path: path == "['out']['w']")
    np.testing.assert_allclose(
        dense(hessian_operator(*inner, batch), inner.params).value,
        dense(hessian_operator(*once, batch), once.params).value,
        atol=1e-6,
    )


@pytest.mark.slow
def test_the_last_layer_costs_less_than_the_whole():
    params = mlp_params(features=100, width=200, classes=10)
    batch = Public(mlp_batch(64, features=100, classes=10))
    operators = [hessian(CHOICES[name], params, batch) for name in CHOICES]
    vectors = [restrict(mlp_loss, params, CHOICES[name]).params for name in CHOICES]
    costs = dict(
        zip(
            CHOICES,
            (
                flops(lambda a, v: a(v), operator, vector)
                for operator, vector in zip(operators, vectors, strict=True)
            ),
            strict=True,
        )
    )
    assert costs["one layer"] < costs["everything"] / 2


def test_an_empty_block_is_refused():
    with pytest.raises(ValueError, match=r"one of \[.*'hidden'.*\], got where="):
        restrict(mlp_loss, mlp_params(), lambda path: "conv" in path)
