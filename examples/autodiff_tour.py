"""Walk through the derivatives that private training and curvature are made of.

A section is a function: its docstring is the story, what it returns are the numbers.
"""

import functools
import inspect
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from jax import Array

import dpjax

Numbers = dict[str, Any]
forward = functools.partial(dpjax.jacobian, mode="forward")
reverse = functools.partial(dpjax.jacobian, mode="reverse")


def higher_derivatives() -> Numbers:
    """Higher derivatives: f(x) = x^3 + 2 x^2 - 3 x + 1, four times, at x = 1.

    What grad returns is a function like any other, so grad takes it again.
    """

    def f(x: Array) -> Array:
        return x**3 + 2 * x**2 - 3 * x + 1

    numbers, derivative = {}, f
    for name in ("f'", "f''", "f'''", "f''''"):
        derivative = jax.grad(derivative)
        numbers[name] = derivative(1.0)
    return numbers


# A logistic regression on four examples, with three weights and a bias.
INPUTS = jnp.array(
    [[0.52, 1.12, 0.77], [0.88, -1.08, 0.15], [0.52, 0.06, -1.30], [0.74, -2.49, 1.39]]
)
LABELS = jnp.array([True, True, False, True])
W, B = jnp.array([-1.5363059, 0.9659595, 0.5454381]), jnp.float32(0.15466443)


def predict(w: Array, b: Array) -> Array:
    """Return the probability of label True, one number an example."""
    return jax.nn.sigmoid(INPUTS @ w + b)


def loss(w: Array) -> Array:
    """Return the sum of -log p(label), with the bias B."""
    return -jnp.log(jnp.where(LABELS, predict(w, B), 1 - predict(w, B))).sum()


def jacobians() -> Numbers:
    """Jacobians: four predictions by three weights, and by a dict of parameters.

    Forward mode makes a column a pass, reverse mode a row: they differ in the last
    digits alone. Without a mode, the shapes choose the cheaper one. Whatever pytree
    holds the parameters holds the derivatives too.
    """
    params = {"W": W, "b": B}
    return {
        "forward": forward(predict)(W, B),
        "reverse": reverse(predict)(W, B),
        "chosen": dpjax.jacobian(predict)(W, B),
        "forward, of a dict": forward(lambda p: predict(p["W"], p["b"]))(params),
        "reverse, of a dict": reverse(lambda p: predict(p["W"], p["b"]))(params),
    }


def hessians() -> Numbers:
    """Hessians: the Jacobian of a Jacobian, in either order; that of x.x is 2 I.

    Forward over reverse is the usual choice: one reverse pass for the gradient, under
    one forward pass a column. A function of several outputs has a matrix for each: a
    prediction p of the example x has p (1 - p) (1 - 2 p) x x^T.
    """

    def f(x: Array) -> Array:
        return jnp.dot(x, x)

    x = jnp.array([1.0, 2.0, 3.0])
    return {
        "dpjax.hessian": dpjax.hessian(f)(x),
        "forward over reverse": forward(reverse(f))(x),
        "reverse over forward": reverse(forward(f))(x),
        "of four predictions": forward(reverse(predict))(W, B),
    }


def hessian_vector_products() -> Numbers:
    """Hessian-vector products: H v at about the cost of two gradients.

    H v is the gradient of (grad f).v. It is also the derivative of grad f along v: so
    dpjax.hvp takes it, without forming H. vmap multiplies H with many vectors at once.
    """
    v = jnp.array([1.0, -2.0, 3.0])
    return {
        "dpjax.hvp": dpjax.hvp(loss, W, v),
        "grad of (grad f).v": jax.grad(lambda w: jnp.vdot(jax.grad(loss)(w), v))(W),
        "dpjax.hessian times v": dpjax.hessian(loss)(W) @ v,
        "all of H, by vmap": jax.vmap(lambda e: dpjax.hvp(loss, W, e))(jnp.eye(3)),
    }


def maml() -> Numbers:
    """MAML: the gradient through a step of gradient descent, p' = p - r grad f(p).

    The chain rule gives (I - r H) grad f(p'), in which H meets a vector only; leaving H
    out is first-order MAML. For f(p) = a p^2 / 2 it is a p (1 - r a)^2.
    """
    a, rate, p = 2.0, 0.1, jnp.float32(1.5)

    def f(p: Array) -> Array:
        return 0.5 * a * p**2

    def adapted(p: Array) -> Array:
        return p - rate * jax.grad(f)(p)

    after = jax.grad(f)(adapted(p))
    return {
        "grad of f(p')": jax.grad(lambda p: f(adapted(p)))(p),
        "by dpjax.hvp": after - rate * dpjax.hvp(f, p, after),
        "first order": after,
    }


# Temporal differences: a state, the reward on leaving it, the next state.
THETA = jnp.array([0.1, -0.1, 0.0])
S_TM1, R_T, S_T = jnp.array([1.0, 2.0, -1.0]), jnp.float32(1.0), jnp.array([2.0, 1, 0])


def value(theta: Array, state: Array) -> Array:
    """Return what a linear model expects to be earned from a state on."""
    return jnp.vdot(theta, state)


def td_error(theta: Array, s_tm1: Array, r_t: Array, s_t: Array) -> Array:
    """Return the target, reward plus next value, less the value."""
    return r_t + value(theta, s_t) - value(theta, s_tm1)


def td_loss(theta: Array, s_tm1: Array, r_t: Array, s_t: Array) -> Array:
    """Return the squared TD error of ONE transition, its target held fixed."""
    target = jax.lax.stop_gradient(r_t + value(theta, s_t))
    return (target - value(theta, s_tm1)) ** 2


def td_learning() -> Numbers:
    """TD(0): the value of a state should be the reward plus the value of the next.

    stop_gradient holds this target fixed, and leaves the loss what it was. The update,
    TD error times grad v, is then the gradient of -1/2 the loss, to ascend; that of the
    loss itself is minus twice it, to descend. With a moving target it is neither.
    """
    args = (THETA, S_TM1, R_T, S_T)
    return {
        "value": value(THETA, S_TM1),
        "target": R_T + value(THETA, S_T),
        "TD error": td_error(*args),
        "loss, moving target": td_error(*args) ** 2,
        "loss, fixed target": td_loss(*args),
        "grad, moving target": jax.grad(lambda *args: td_error(*args) ** 2)(*args),
        "grad, fixed target": jax.grad(td_loss)(*args),
        "grad of -1/2 loss": jax.grad(lambda *args: -0.5 * td_loss(*args))(*args),
        "TD error times grad v": td_error(*args) * jax.grad(value)(THETA, S_TM1),
    }


def straight_through() -> Numbers:
    """Straight-through estimator: the value of a function, the slope of the identity.

    Nothing is learned through rounding, whose slope is zero. The estimator rounds in
    the forward pass, and lets the gradient through in the backward pass.
    """
    x, rounded = jnp.float32(3.2), dpjax.straight_through(jnp.round)
    return {
        "value, round": jnp.round(x),
        "value, straight through": rounded(x),
        "slope, round": jax.grad(jnp.round)(x),
        "slope, straight through": jax.grad(rounded)(x),
    }


BATCH = tuple(jnp.stack([part] * 2) for part in (S_TM1, R_T, S_T))
without_jit = jax.vmap(jax.grad(td_loss), in_axes=(None, 0, 0, 0))


def per_example_gradients() -> Numbers:
    """Per-example gradients: jit(vmap(grad)) of the loss of one example.

    Private training begins here, since each example is clipped alone. Parameters are
    shared, or stacked like the examples; these are two equal transitions.
    """
    stacked = jnp.stack([THETA] * 2)
    return {
        "dpjax.per_example_grad": dpjax.per_example_grad(td_loss)(THETA, *BATCH),
        "shared, without jit": without_jit(THETA, *BATCH),
        "stacked, without jit": jax.vmap(jax.grad(td_loss))(stacked, *BATCH),
    }


def timing(calls: int = 50) -> Numbers:
    """Timing: those gradients with jit and without, the median call in milliseconds.

    Without jit each call traces the loss anew, and runs it operation by operation.
    """

    def median(gradients: Callable[..., Array]) -> np.float64:
        def call() -> None:
            jax.block_until_ready(gradients(THETA, *BATCH))

        call()  # compiles
        return 1e3 * np.median(timeit.repeat(call, number=1, repeat=calls))

    jit, plain = median(dpjax.per_example_grad(td_loss)), median(without_jit)
    return {"with jit": jit, "without jit": plain, "ratio": plain / jit}


def main(argv: Sequence[str]) -> None:
    """Print what each section says, and what it finds."""
    del argv
    for section in (
        higher_derivatives,
        jacobians,
        hessians,
        hessian_vector_products,
        maml,
        td_learning,
        straight_through,
        per_example_gradients,
        timing,
    ):
        print(f"\n{inspect.getdoc(section)}\n")
        for name, numbers in section().items():
            for path, number in jax.tree.leaves_with_path(numbers):
                head = f"    {name + jax.tree_util.keystr(path):<26}"
                print(head, np.array2string(number, precision=4, prefix=head))


if __name__ == "__main__":
    app.run(main)
