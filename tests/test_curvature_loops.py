"""The loop around the products: compiled once, anew for a bare callable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_operators import dense

from dpjax.curvature import density, eigenpairs, estimates, krylov, vectors
from dpjax.curvature.matvec import MatVec

LIKE = jnp.zeros(6)
ALGORITHMS = {
    "lanczos": lambda m: krylov.lanczos(m, LIKE, key=0, num_steps=3),
    "top": lambda m: eigenpairs.top_eigenpairs(m, LIKE, 2, key=0),
    "trace": lambda m: estimates.trace(m, LIKE, key=0),
    "diagonal": lambda m: estimates.diagonal(m, LIKE, key=0),
    "density": lambda m: density.spectral_density(m, LIKE, key=0, num_steps=4),
}


@pytest.fixture
def counted():
    traces = []

    @dataclasses.dataclass(frozen=True)
    class Counted:
        power: int

        def __call__(self, vector, scales):
            traces.append(None)
            return scales**self.power * vector

    return Counted, traces


@pytest.mark.parametrize(
    "name",
    [
        "lanczos",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("trace", "diagonal", "density")
        ),
    ],
)
def test_an_equal_function_with_new_operands_is_not_compiled_again(name, counted):
    function, traces = counted
    ALGORITHMS[name](MatVec(function(2), (jnp.arange(6.0),)))
    first = len(traces)
    assert first
    ALGORITHMS[name](MatVec(function(2), (jnp.arange(6.0) + 1,)))
    assert len(traces) == first
    ALGORITHMS[name](MatVec(function(3), (jnp.arange(6.0),)))
    assert len(traces) > first


def test_a_bare_callable_is_read_again_at_every_call():
    scales = np.ones(6, np.float32)

    def multiply(vector):
        return jnp.asarray(scales) * vector

    assert estimates.trace(multiply, LIKE, key=0).value == 6
    scales *= 2
    assert estimates.trace(multiply, LIKE, key=0).value == 12


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_operator_on_the_host_is_refused_under_jit(name):
    matvec = dense(np.eye(6, dtype=np.float32), traceable=False)
    with pytest.raises(TypeError, match=r"trace inside of jax\.jit"):
        jax.jit(lambda: ALGORITHMS[name](matvec))()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("traceable", [True, False])
def test_a_product_of_another_shape_is_refused(name, traceable):
    matvec = MatVec(lambda v: v[:3], traceable=traceable)
    with pytest.raises(ValueError, match=r"matvec\(vector\)"):
        ALGORITHMS[name](matvec)


def test_a_complex_product_is_refused():
    with pytest.raises(TypeError, match=r"real leaves.*matvec\(vector\)"):
        ALGORITHMS["trace"](MatVec(lambda vector: 1j * vector))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_host_and_scan_agree_and_keep_the_event(name):
    matrix = np.diag([1.0, 4.0, 2.0, 8.0, 5.0, 7.0]).astype(np.float32)
    results = [
        ALGORITHMS[name](dense(matrix, traceable=flag)) for flag in (True, False)
    ]
    assert results[0].event == results[1].event == dense(matrix).event
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_the_batch_size_changes_nothing_but_memory(batch_size):
    matvec = dense(np.ones((6, 6), np.float32))
    one = estimates.trace(matvec, LIKE, key=0)
    batched = estimates.trace(matvec, LIKE, key=0, batch_size=batch_size)
    np.testing.assert_allclose(one.value, batched.value, rtol=1e-6)
    runs = [
        density.spectral_density(
            matvec, LIKE, key=0, num_probes=5, num_steps=2, batch_size=size
        )
        for size in (None, batch_size)
    ]
    np.testing.assert_allclose(runs[0].nodes, runs[1].nodes, atol=1e-5)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        estimates.trace(dense(np.eye(6)), LIKE, key=0, batch_size=0)


def test_a_key_may_be_an_integer_or_typed():
    space = vectors.space_of(LIKE)
    drawn = [
        vectors.signs(space, vectors.probe_key(key, LIKE))
        for key in (5, jax.random.key(5))
    ]
    np.testing.assert_array_equal(*drawn)
