"""The derivatives that clipping and curvature share.

Everything here is a thin, checked composition of `jax.grad`, `jax.jvp` and `jax.vmap`:
first derivatives of one example, Jacobians in the cheaper mode, Hessians and
Hessian-vector products of pytrees, and the straight-through estimator.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dpjax import _apart, _check, _meshes
from dpjax.types import ArrayTree, LossFn, Params


def as_argnums(argnums: int | Sequence[int]) -> tuple[int, ...]:
    """Return positions as a tuple, each checked to be an integer >= 0."""
    positions = (argnums,) if not isinstance(argnums, Sequence) else tuple(argnums)
    for position in positions:
        _check.integer("argnums", position, minimum=0)
    if len(set(positions)) != len(positions) or not positions:
        _check.fail("distinct positions, at least one", "argnums", argnums)
    return positions


def check_scalar(loss: Any) -> None:
    """Raise unless `loss`, one example's loss, is one real floating-point number."""
    shape, dtype = np.shape(loss), jax.numpy.result_type(loss)
    if shape != ():
        raise ValueError(
            "Expected a loss_fn that returns a scalar for one example, got "
            f"loss.shape={shape}. Reduce it (for instance with jnp.mean or jnp.sum)."
        )
    if not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        _check.fail("a real floating-point loss", "loss.dtype", str(dtype), TypeError)


def per_example_grad(
    loss_fn: LossFn,
    *,
    argnums: int | Sequence[int] = 0,
    batch_argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the gradient of every example: `jit(vmap(grad))`.

    The parameters are shared by all examples (`in_axes` None); every leaf of a batch
    argument has its examples on axis 0. Time and memory grow with batch x parameters.
    Where XLA would mix examples, or lose those of other devices, as it does in some
    convolutions, they are kept apart.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`, the loss of ONE example; with
        `has_aux=True` it returns `(scalar, aux)`.
      argnums: which positional argument, or arguments, to differentiate.
      batch_argnums: which positional arguments carry the batch axis. `None` means all
        that are not in `argnums`; what is in neither is passed on as it is.
      has_aux: whether `loss_fn` returns auxiliary data beside the loss.

    Returns:
      A function with the arguments of `loss_fn` (batched) that returns gradients shaped
      like `params` with a leading axis `(batch,)`, or `(gradients, aux)`. They are raw:
      nothing about them is private.

    Raises:
      ValueError: batch axes of different lengths, a loss that is not a scalar, or
        overlapping positions.
      TypeError: parameters that are not floating-point.

    >>> import jax.numpy as jnp
    >>> grads = per_example_grad(lambda w, x: jnp.vdot(w, x) ** 2 / 2)
    >>> print(grads(jnp.ones(2), jnp.array([[1., 0.], [0., 2.]])))
    [[1. 0.]
     [0. 4.]]
    """
    diff = as_argnums(argnums)
    batched = None if batch_argnums is None else as_argnums(batch_argnums)
    if batched is not None and set(diff) & set(batched):
        _check.fail(f"positions outside argnums={diff}", "batch_argnums", batch_argnums)

    def checked(*args: Any) -> Any:
        out = loss_fn(*args)
        check_scalar(out[0] if has_aux else out)
        return out

    @functools.partial(jax.jit, static_argnums=0)
    def run(positions: tuple[int, ...], *args: Any) -> Any:
        grad = jax.grad(checked, argnums=argnums, has_aux=has_aux)

        def every(args: tuple[Any, ...]) -> Any:
            def one(*example: Any) -> Any:
                own = dict(zip(positions, example, strict=True))
                return grad(*(own.get(i, arg) for i, arg in enumerate(args)))

            return _apart.mapped(one, *(args[i] for i in positions))

        spec = _meshes.spec_of_examples([args[i] for i in positions])
        return _meshes.left_to_compiler(every, spec, args)

    @functools.wraps(loss_fn)
    def fn(*args: Any) -> Any:
        positions = tuple(
            i
            for i in range(len(args))
            if (i not in diff if batched is None else i in batched)
        )
        for position in diff:
            _check.float_leaves("params", args[position])
        _check.leading_axis("batch", [args[i] for i in positions])
        return run(positions, *args)

    return fn


def jacobian(
    fun: Callable[..., ArrayTree], mode: str | None = None
) -> Callable[..., ArrayTree]:
    """Return a function that computes the Jacobian of `fun` in its first argument.

    Args:
      fun: a function of one pytree (further positional arguments are constants) that
        returns a pytree.
      mode: "forward" (one pass an input: cheap for tall Jacobians), "reverse" (one pass
        an output: cheap for wide ones), or `None`: chosen from the shapes at the call.

    Returns:
      A function like `fun`. Its result has the structure of the output of `fun`, each
      leaf replaced by the structure of the input, with leaves of shape
      `output.shape + input.shape`.

    Raises:
      ValueError: an unknown `mode`.
    """
    if mode is not None:
        _check.choice("mode", mode, ("forward", "reverse"))

    @functools.wraps(fun)
    def fn(params: ArrayTree, *args: Any) -> ArrayTree:
        outputs = jax.eval_shape(fun, params, *args)
        tall = _num_elements(outputs) >= _num_elements(params)
        forward = tall if mode is None else mode == "forward"
        return (jax.jacfwd if forward else jax.jacrev)(fun)(params, *args)

    return fn


def hessian(fun: Callable[..., jax.Array]) -> Callable[..., ArrayTree]:
    """Return a function that computes the dense Hessian of a scalar function.

    Forward over reverse, `jacfwd(grad(fun))`: memory and time grow with the square of
    the number of parameters. For products with vectors use `hvp`.

    Args:
      fun: a scalar function of one pytree (further arguments are constants).

    Returns:
      A function like `fun`; leaf `[i][j]` of its result has shape
      `params_i.shape + params_j.shape`.
    """
    return jax.jacfwd(jax.grad(fun))


def hvp(
    fun: Callable[[Params], jax.Array], params: Params, vector: ArrayTree
) -> ArrayTree:
    """Multiply the Hessian of `fun` at `params` with `vector`.

    Forward over reverse, H v = d/dt grad fun(params + t v) at t = 0: about the cost of
    two gradients, and the Hessian is never formed (Pearlmutter 1994).

    Args:
      fun: a scalar function of one pytree.
      params: the point, a pytree of floating-point arrays.
      vector: a pytree of the same structure, shapes and dtypes.

    Returns:
      H v, shaped like `params`.

    Raises:
      ValueError: `vector` does not have the structure and shapes of `params`.

    References:
      Pearlmutter 1994, Fast exact multiplication by the Hessian.

    >>> import jax.numpy as jnp
    >>> print(hvp(lambda x: jnp.sum(x**3), jnp.array([1., 2.]), jnp.array([1., 1.])))
    [ 6. 12.]
    """
    _check.same_shapes("vector", vector, params)
    return jax.jvp(jax.grad(fun), (params,), (vector,))[1]


def straight_through(
    fun: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """Return `fun` with the derivative of the identity.

    The value is that of `fun`, exactly; the derivative pretends that `fun(x) = x`. This
    is how a network is trained through rounding or a threshold (Bengio et al. 2013).

    Args:
      fun: a function of one array (or pytree) that keeps its shape.

    Raises:
      ValueError: `fun` changes the shape of its argument.

    References:
      Bengio, Leonard and Courville 2013, arXiv 1308.3432.
    """

    @jax.custom_jvp
    def fn(x: ArrayTree) -> ArrayTree:
        out = fun(x)
        _check.same_shapes("fun(x)", out, x)
        return out

    @fn.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        return fn(*primals), tangents[0]

    return fn


def _num_elements(tree: ArrayTree) -> int:
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))
