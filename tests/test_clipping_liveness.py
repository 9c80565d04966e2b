"""The estimate of memory, on programs whose memory is known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from dpjax import _equations
from dpjax.clipping import liveness

SQUARE = 4 * 8 * 8


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def temporaries(fun, *args):
    traced, _ = _equations.trace(fun, *args)
    return liveness.temporaries(traced.jaxpr.eqns, traced.jaxpr.outvars)


def steps(x):
    return lax.scan(lambda h, _: (h @ x @ x, None), x, length=5)[0]


@pytest.mark.parametrize(
    ("fun", "squares"),
    [
        pytest.param(lambda x: x @ x, 0, id="a result is no temporary"),
        pytest.param(lambda x: (x @ x).reshape(64), 0, id="nor is its other shape"),
        pytest.param(lambda x: x @ x @ x, 1, id="one product inside"),
        pytest.param(lambda x: x @ x @ x @ x, 2, id="two at a time"),
        pytest.param(lambda x: x @ x @ x @ x @ x, 2, id="which are let go"),
        pytest.param(lambda x: (x @ x) + (x @ x.T), 3, id="a transposed copy, for now"),
        pytest.param(lambda x: jnp.sin(x) * 2 + x, 0, id="arithmetic is fused"),
        pytest.param(lambda x: jnp.sin(x) @ x, 1, id="but not into a product"),
        pytest.param(lambda x: jnp.sum(jnp.sin(x), axis=0) @ x, 1.125, id="a sum"),
        pytest.param(steps, 1, id="what is inside of a loop"),
        pytest.param(lambda x: jnp.zeros((8, 8)).at[0].add(x[1]), 0.125, id="scatter"),
    ],
)
def test_squares_in_memory_at_a_time(fun, squares):
    assert temporaries(fun, shaped(8, 8)) == pytest.approx(squares * SQUARE, abs=16)
