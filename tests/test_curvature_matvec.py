"""A linear operator is a pytree, a function, and an event."""

import dataclasses

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import Counted

from dpjax.curvature import MatVec
from dpjax.curvature.matvec import as_matvec


def scale(vector, factor):
    return jax.tree.map(lambda leaf: factor * leaf, vector)


def test_it_is_its_function_of_a_vector_and_its_operands():
    matvec = MatVec(scale, (3.0,))
    product = matvec({"a": jnp.ones(2), "b": jnp.array(2.0)})
    np.testing.assert_array_equal(product["a"], [3, 3])
    assert product["b"] == 6


def test_a_bare_callable_has_no_event():
    matvec = as_matvec(jnp.negative)
    assert matvec.event is None
    np.testing.assert_array_equal(matvec(jnp.ones(2)), [-1, -1])
    assert as_matvec(matvec) is matvec


def test_new_operands_do_not_compile_anew():
    counted = Counted(scale)
    run = jax.jit(lambda matvec, vector: matvec(vector))
    for factor in (2.0, 3.0):
        product = run(MatVec(counted, (jnp.float32(factor),)), jnp.ones(2))
        np.testing.assert_array_equal(product, [factor, factor])
    assert len(counted.calls) == 1


@pytest.mark.parametrize(
    "event", [None, dp_accounting.NoOpDpEvent(), dp_accounting.NonPrivateDpEvent()]
)
def test_its_event_passes_through_jit(event):
    matvec = MatVec(scale, (jnp.float32(2),), event, traceable=False)
    back = jax.jit(lambda matvec: matvec)(matvec)
    assert back.event == event
    assert not back.traceable
    assert back.function is scale


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MatVec(scale).event = dp_accounting.NoOpDpEvent()
