"""An operator plus a multiple of the identity."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense, rotated

from dpjax.curvature import damped, log_determinant, trace

VALUES = np.linspace(0.0, 3.0, 12)
LIKE = jnp.zeros(12)


@pytest.mark.parametrize("traceable", [True, False])
def test_it_adds_to_every_eigenvalue_and_keeps_the_event(traceable):
    matvec = damped(dense(rotated(VALUES), traceable=traceable), 0.5)
    found = log_determinant(matvec, LIKE, key=0, num_steps=12, num_probes=4)
    want = np.log(VALUES + 0.5).sum()
    np.testing.assert_allclose(found.value, want, atol=5 * found.stderr + 1e-3)
    assert found.event == matvec.event == dp_accounting.NoOpDpEvent()
    assert matvec.traceable is traceable


def test_damping_may_be_traced_and_a_bare_callable_has_no_event():
    @jax.jit
    def total(damping):
        return trace(damped(lambda v: 2 * v, damping), LIKE, key=0, num_probes=2)

    assert total(1.5).value == 12 * 3.5
    assert total(0.0).event is None


def test_the_vectors_keep_their_precision():
    like = {"w": jnp.zeros(3, jnp.bfloat16)}
    found = damped(lambda v: {"w": v["w"].astype(jnp.float32)}, 1.0)(like)
    assert found["w"].dtype == jnp.float32


@pytest.mark.parametrize("damping", [-1.0, np.nan, np.inf, "much", None])
def test_other_dampings_are_refused(damping):
    with pytest.raises((ValueError, TypeError), match="damping"):
        damped(lambda v: v, damping)
