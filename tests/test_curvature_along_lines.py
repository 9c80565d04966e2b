"""How a function and its gradient bend along a line: those of the dense Hessian."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import flops, mlp_batch, mlp_loss, mlp_params, vector_like
from jax import lax
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Public, along_lines, estimates, vectors
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.matvec import MatVec

KERNEL = np.random.default_rng(0).normal(size=(5, 5))


@jax.custom_vjp
def backward_only(x):
    return jnp.tanh(x)


backward_only.defvjp(
    lambda x: (jnp.tanh(x), x), lambda x, cotangent: (cotangent / jnp.cosh(x) ** 2,)
)


@jax.custom_vjp
def calling_itself(x):
    return jnp.tanh(x)


calling_itself.defvjp(
    lambda x: (calling_itself(x), x),
    lambda x, cotangent: (cotangent / jnp.cosh(x) ** 2,),
)


@jax.custom_jvp
def with_own_rule(x):
    return jnp.log1p(jnp.exp(x))


with_own_rule.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))


def activated(function):
    return lambda w: jnp.sum(function(w @ jnp.asarray(KERNEL, w.dtype)) ** 2)


def in_scan(function):
    def loss(w):
        def step(carry, _):
            return function(carry @ jnp.asarray(KERNEL, w.dtype) + w), None

        return jnp.sum(lax.scan(step, w, length=3)[0] ** 2)

    return loss


def in_cond(function):
    def loss(w):
        return lax.cond(w[0] > -100, activated(function), lambda w: w[0], w)

    return loss


def in_jit(function):
    return lambda w: jax.jit(activated(function))(w)


def of_parts(w):
    return jnp.vdot(w[:2], jnp.exp(w[2:4])) / (1 + w[4] ** 2)


FORWARD = {
    "tanh": activated(jnp.tanh),
    "own_rule": activated(with_own_rule),
    "remat": activated(jax.checkpoint(jnp.sin)),
    "scan": in_scan(jnp.tanh),
    "parts": of_parts,
}
BACKWARD = {
    "backward_only": activated(backward_only),
    "backward_only_in_scan": in_scan(backward_only),
    "backward_only_in_cond": in_cond(backward_only),
    "backward_only_in_jit": in_jit(backward_only),
    "backward_only_mapped": activated(jax.vmap(backward_only)),
    "calling_itself": activated(calling_itself),
    "calling_itself_in_scan": in_scan(calling_itself),
}
LOSSES = FORWARD | BACKWARD


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("in_float64")
def test_they_are_those_of_the_dense_hessian(name):
    point, direction = np.random.default_rng(1).normal(size=(2, 5))
    found = along_lines.second_derivative(LOSSES[name], point, direction)
    # Reverse over reverse: what is differentiated backward only allows no other.
    hessian = jax.jacrev(jax.grad(LOSSES[name]))(point)
    np.testing.assert_allclose(found, direction @ hessian @ direction, rtol=1e-10)
    assert abs(found) > 1e-3
    change = along_lines.change_of_gradient(LOSSES[name], point, direction)
    np.testing.assert_allclose(change, hessian @ direction, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_what_goes_backward_only_is_told_from_the_rest(name):
    jaxpr = jax.make_jaxpr(LOSSES[name])(jnp.ones(5)).jaxpr
    assert along_lines._goes_back_only(jaxpr) == (name in BACKWARD)


@pytest.mark.parametrize("function", [jnp.tanh, backward_only])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_makes_it_nan(bad, function):
    def loss(w):
        return jnp.sum(function(w))

    point, direction = jnp.ones(1), jnp.ones(1)
    assert np.isfinite(along_lines.second_derivative(loss, point, direction))
    # What is added has no derivatives.
    found = along_lines.second_derivative(lambda w: loss(w) + bad, point, direction)
    assert np.isnan(found)


def test_losses_whose_sum_overflows_have_the_trace_of_their_mean():
    def loss(w, x):
        return jnp.sum(w**2 * x) + 2e38

    params = jnp.array([0.3, -0.2, 0.5])
    matvec = hessian_operator(loss, params, Public(jnp.ones((4, 3))))
    assert estimates.trace(matvec, params, key=0).value == 6


def test_the_trace_in_float16_is_not_added_up_in_float16():
    def loss(w, x):
        return jnp.sum(w.astype(jnp.float16) ** 2) / 2

    params = jnp.full(100_000, 0.01)
    matvec = hessian_operator(loss, params, Public(jnp.ones((2, 1))))
    assert estimates.trace(matvec, params, key=0, num_probes=2).value == 100_000


@pytest.mark.parametrize("function", [jnp.tanh, backward_only])
def test_devices_that_share_the_parameters_add_up(function):
    def trace(x):
        params = jnp.array([0.3, -0.2, 0.5, 0.1])
        matvec = hessian_operator(
            lambda w, x: function(jnp.vdot(w, x)) ** 2, params, Public(x)
        )
        return estimates.trace(matvec, params, key=0, num_probes=4).value

    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(trace, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P())
    # The mean over each half, and their sum, as of gradients there.
    np.testing.assert_allclose(split(x), 2 * trace(x), rtol=1e-5)


def by_products(matvec):
    return dataclasses.replace(matvec, form=None)


@pytest.mark.parametrize("microbatch_size", [None, 1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_form_of_the_hessian_is_that_of_its_product(microbatch_size, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), mlp_params())
    matvec = hessian_operator(
        mlp_loss, params, Public(mlp_batch()), microbatch_size=microbatch_size
    )
    vector = vector_like(mlp_params())
    found = matvec.form(vector, *matvec.operands)
    expected = vectors.dot(vector, matvec(vector))
    assert (found.shape, found.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_probes", "batch_size"), [(1, None), (7, None), (7, 3), (7, 100)]
)
def test_the_trace_is_the_same_by_forms_and_by_products(num_probes, batch_size):
    matvec = hessian_operator(mlp_loss, mlp_params(), Public(mlp_batch()))
    options = {"key": 5, "num_probes": num_probes, "batch_size": batch_size}
    found = estimates.trace(matvec, mlp_params(), **options)
    expected = estimates.trace(by_products(matvec), mlp_params(), **options)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-3)
    assert found.event == expected.event == matvec.event


def test_where_there_is_a_form_no_product_is_taken():
    def refuse(vector, scale):
        raise AssertionError

    matvec = MatVec(refuse, (3.0,), form=lambda v, scale: scale * jnp.vdot(v, v))
    assert estimates.trace(matvec, jnp.zeros(4), key=0).value == 12
    with pytest.raises(AssertionError):
        estimates.trace(by_products(matvec), jnp.zeros(4), key=0)


def test_what_is_wrong_is_refused_as_for_products():
    matvec = hessian_operator(mlp_loss, mlp_params(), Public(mlp_batch()))
    with pytest.raises(ValueError, match="batch_size"):
        estimates.trace(matvec, mlp_params(), key=0, batch_size=0)
    with pytest.raises(ValueError, match="num_probes"):
        estimates.trace(matvec, mlp_params(), key=0, num_probes=0)
    with pytest.raises(ValueError, match="vector"):
        estimates.trace(matvec, ravel_pytree(mlp_params())[0], key=0)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (lambda v: 1j * jnp.vdot(v, v), TypeError),
        (lambda v: v * v, ValueError),
    ],
)
def test_a_form_that_is_no_real_number_is_refused(form, error):
    with pytest.raises(error, match="form"):
        estimates.trace(MatVec(lambda v: v, form=form), jnp.ones(4), key=0)


def test_an_operator_that_cannot_be_traced_is_asked_for_products():
    def on_the_host(vector):
        return 3 * np.asarray(vector)

    matvec = MatVec(on_the_host, traceable=False, form=lambda v: float(v @ v))
    assert estimates.trace(matvec, jnp.ones(4), key=0).value == 12


def test_a_new_point_does_not_compile_the_trace_anew():
    calls = []

    def loss(params, x):
        calls.append(1)
        return jnp.sum(jnp.tanh(params) * x)

    for point in (0.1, 0.2):
        params = jnp.full(3, point)
        matvec = hessian_operator(loss, params, Public(jnp.ones((2, 3))))
        estimates.trace(matvec, params, key=0)
        if point == 0.1:
            traced = len(calls)
    assert len(calls) == traced > 0


def test_forms_of_a_deep_network_take_a_third_less_than_products():
    weights = [jnp.full((32, 32), 0.01)] * 6
    batch = Public(jnp.ones((16, 32)))

    def loss(weights, x):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return jnp.sum(x)

    matvec = hessian_operator(loss, weights, batch)
    form = flops(lambda v: matvec.form(v, *matvec.operands), weights)
    product = flops(matvec, weights)
    # Five products a layer against eight, of which at the first layer 2 and 5.
    assert form / product < 0.67
