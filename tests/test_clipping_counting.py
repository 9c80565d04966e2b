"""The count of operations against XLA's, and against counts made by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from dpjax import _equations
from dpjax.clipping import counting


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def operations(fun, *args):
    traced, _ = _equations.trace(fun, *args)
    return counting.operations(traced.jaxpr.eqns)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "VALID"},
        {"padding": "SAME"},
        {"padding": ((3, 1), (0, 2)), "window_strides": (2, 3)},
        {"padding": "SAME", "rhs_dilation": (2, 1)},
        {"padding": ((2, 2), (1, 0)), "lhs_dilation": (2, 3)},
        {"padding": "SAME", "feature_group_count": 4},
        {"padding": "SAME", "batch_group_count": 3},
    ],
    ids=str,
)
def test_a_convolution_counts_what_xla_counts(options):
    groups = options.get("feature_group_count", 1)
    options = {"window_strides": (1, 1), **options}

    def fun(image, kernel):
        return lax.conv_general_dilated(image, kernel, **options)

    args = shaped(6, 8, 11, 9), shaped(12, 8 // groups, 3, 2)
    # XLA may compile a convolution as a product, which multiplies with padding too.
    analysis = jax.jit(fun).lower(*args).cost_analysis()
    assert operations(fun, *args) == analysis["flops"]


@pytest.mark.parametrize(
    ("subscripts", "left", "right", "count"),
    [
        ("ij,jk->ik", (3, 5), (5, 7), 2 * 3 * 5 * 7),
        ("bij,bjk->bik", (4, 3, 5), (4, 5, 7), 2 * 4 * 3 * 5 * 7),
        ("i,i->", (9,), (9,), 2 * 9),
        ("bti,btj->ij", (4, 6, 3), (4, 6, 5), 2 * 4 * 6 * 3 * 5),
    ],
)
def test_a_product_counts_two_for_a_multiply_add(subscripts, left, right, count):
    def fun(a, b):
        return jnp.einsum(subscripts, a, b)

    assert operations(fun, shaped(*left), shaped(*right)) == count


@pytest.mark.parametrize(
    ("fun", "count"),
    [
        (lambda x: x * x + 1, 2 * 12),
        (lambda x: jnp.tanh(x), 12),
        (lambda x: x.T.reshape(2, 6)[:, ::2], 0),
        (lambda x: 0 + x, 0),
        (lambda x: jnp.sum(x, axis=0), 12),
        (lambda x: jnp.cumsum(x, axis=1), 12),
        # Three for each index, which may be negative, and the additions themselves.
        (lambda x: jnp.zeros(9).at[jnp.arange(4)].add(x[0]), 3 * 4 + 4),
        (lambda x: jax.checkpoint(jnp.sin)(x), 12),
        (lambda x: jax.nn.relu(x), 12),
        (lambda x: lax.reduce_window(x, 0.0, lax.add, (3, 2), (3, 2), "VALID"), 12),
    ],
)
def test_other_arithmetic_counts_once_a_number(fun, count):
    assert operations(fun, shaped(3, 4)) == count


def test_a_scan_counts_each_step():
    def fun(w, xs):
        return lax.scan(lambda h, x: (h @ w + x, None), jnp.zeros(5), xs)[0]

    one = operations(fun, shaped(5, 5), shaped(1, 5))
    assert one == 2 * 25 + 5
    assert operations(fun, shaped(5, 5), shaped(40, 5)) == 40 * one


def test_of_branches_the_longest_counts():
    def fun(pick, x):
        return lax.cond(pick, lambda x: x @ x, lambda x: x + 1, x)

    pick = jax.ShapeDtypeStruct((), jnp.bool_)
    product = operations(lambda x: x @ x, shaped(6, 6))
    assert product <= operations(fun, pick, shaped(6, 6)) <= product + 1


def test_of_platforms_the_one_that_runs_here_counts():
    def fun(x):
        here = {jax.default_backend(): lambda x: x + 1}
        return lax.platform_dependent(x, **here, default=lambda x: x @ x)

    assert operations(fun, shaped(6, 6)) == 36


def test_what_no_result_needs_is_not_live():
    def fun(x, y):
        return x @ y, jnp.sin(x), y + 1

    traced, _ = _equations.trace(fun, shaped(6, 6), shaped(6, 6))
    product, sine, total = traced.jaxpr.outvars
    eqns = counting.live(traced.jaxpr, [sine, total])
    assert [eqn.primitive.name for eqn in eqns] == ["sin", "add"]
    assert not counting.adds_up(eqns)
    assert counting.adds_up(counting.live(traced.jaxpr, [product]))
