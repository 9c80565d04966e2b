"""Rows S of the two tutorials: the numbers are theirs, inputs are literals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax

THETA = jnp.array([0.1, -0.1, 0.0])
S_TM1, R_T, S_T = jnp.array([1.0, 2.0, -1.0]), jnp.float32(1.0), jnp.array([2.0, 1, 0])


def value(theta, state):
    return jnp.vdot(theta, state)


def td_loss(theta, s_tm1, r_t, s_t):
    target = jax.lax.stop_gradient(r_t + value(theta, s_t))
    return (target - value(theta, s_tm1)) ** 2


PAIR = (jnp.stack([S_TM1] * 2), jnp.stack([R_T] * 2), jnp.stack([S_T] * 2))
EXPECTED = [[-2.4, -4.8, 2.4]] * 2


def test_s13_per_example_td_gradients_under_jit():
    grads = dpjax.per_example_grad(td_loss)(THETA, *PAIR)
    np.testing.assert_allclose(grads, EXPECTED, rtol=1e-6)


def test_s14_stacked_parameters_give_the_same():
    grads = jax.vmap(jax.grad(td_loss))(jnp.stack([THETA] * 2), *PAIR)
    np.testing.assert_array_equal(grads, dpjax.per_example_grad(td_loss)(THETA, *PAIR))


def test_s15_in_axes_without_jit_gives_the_same():
    plain = jax.vmap(jax.grad(td_loss), in_axes=(None, 0, 0, 0))(THETA, *PAIR)
    jitted = dpjax.per_example_grad(td_loss)(THETA, *PAIR)
    np.testing.assert_allclose(plain, jitted, rtol=1e-7)


def test_per_example_grad_has_aux_and_several_argnums():
    def fn(a, x, b, c):
        return jnp.vdot(a, x) * b * c, x

    per_example = dpjax.per_example_grad(
        fn, argnums=(0, 2), batch_argnums=1, has_aux=True
    )
    x = jnp.arange(6.0).reshape(3, 2)
    (grad_a, grad_b), aux = per_example(jnp.ones(2), x, jnp.float32(2.0), 3.0)
    np.testing.assert_allclose(grad_a, 6 * x)
    np.testing.assert_allclose(grad_b, 3 * x.sum(1))
    np.testing.assert_array_equal(aux, x)


def test_per_example_grad_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="scalar"):
        dpjax.per_example_grad(lambda w, x: w * x)(jnp.ones(2), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="leading batch axis"):
        dpjax.per_example_grad(td_loss)(THETA, PAIR[0], PAIR[1][:1], PAIR[2])
    with pytest.raises(TypeError, match="floating-point"):
        dpjax.per_example_grad(td_loss)(jnp.arange(3), *PAIR)
    with pytest.raises(ValueError, match="outside argnums"):
        dpjax.per_example_grad(td_loss, batch_argnums=(0, 1))


def cubic(params):
    return jnp.sum(params["a"] ** 3) * params["b"]


POINT = {"a": jnp.array([1.0, 2.0]), "b": jnp.float32(3.0)}


def test_hvp_is_the_dense_hessian_times_the_vector():
    vector = {"a": jnp.array([1.0, -1.0]), "b": jnp.float32(2.0)}
    product = dpjax.hvp(cubic, POINT, vector)
    dense = dpjax.hessian(cubic)(POINT)
    expected_a = dense["a"]["a"] @ vector["a"] + dense["a"]["b"] * vector["b"]
    np.testing.assert_allclose(product["a"], expected_a, rtol=1e-6)
    # d2/da2 = 6 a b on the diagonal, d2/dadb = 3 a^2, by hand.
    np.testing.assert_allclose(product["a"], [18 + 6, -36 + 24])
    np.testing.assert_allclose(product["b"], 3 * 1 - 3 * 4)


def test_hvp_refuses_a_vector_of_another_shape():
    with pytest.raises(ValueError, match="shape"):
        dpjax.hvp(cubic, POINT, {"a": jnp.ones(3), "b": jnp.float32(0)})
    with pytest.raises(ValueError, match="structure"):
        dpjax.hvp(cubic, POINT, {"a": jnp.ones(2)})


def test_hessian_of_a_square_is_twice_the_identity():
    hessian = dpjax.hessian(lambda x: jnp.dot(x, x))(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(hessian, 2 * np.eye(3))


@pytest.mark.parametrize(("rows", "columns", "forward"), [(7, 2, True), (2, 7, False)])
def test_jacobian_takes_the_cheaper_mode_and_both_modes_agree(rows, columns, forward):
    matrix = jax.random.normal(jax.random.key(0), (rows, columns))

    def fun(x):
        return {"y": jnp.tanh(matrix @ x["x"])}

    point = {"x": jnp.ones(columns)}
    chosen = str(jax.make_jaxpr(dpjax.jacobian(fun))(point))
    modes = {
        mode: dpjax.jacobian(fun, mode)(point)["y"]["x"]
        for mode in ("forward", "reverse")
    }
    wanted = "forward" if forward else "reverse"
    same = str(jax.make_jaxpr(dpjax.jacobian(fun, wanted))(point))
    assert chosen == same
    np.testing.assert_allclose(modes["forward"], modes["reverse"], rtol=1e-5)
    assert modes["forward"].shape == (rows, columns)
    with pytest.raises(ValueError, match="one of"):
        dpjax.jacobian(fun, "sideways")


def test_straight_through_keeps_the_value_and_passes_the_gradient():
    rounded = dpjax.straight_through(jnp.round)
    assert float(rounded(3.2)) == 3.0
    assert float(jax.grad(jnp.round)(3.2)) == 0.0
    assert float(jax.grad(rounded)(3.2)) == 1.0
    assert float(jax.jit(jax.vmap(jax.grad(rounded)))(jnp.array([3.2, -7.7]))[1]) == 1.0
    with pytest.raises(ValueError, match="shape"):
        dpjax.straight_through(jnp.sum)(jnp.ones(3))
