"""Operators that are means over the examples of a batch, and their precision.

Each such operator is a sum over examples of one linear map, so that every one of them
can be summed in pieces, has its result in the vector's precision, and is compiled once
a loss and a shape.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from dpjax import _check, _meshes, autodiff
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.sources import Source, arguments, raw_event
from dpjax.types import ArrayTree, Params

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def exact_jit(
    function: Callable[Inputs, Output], **options: Any
) -> Callable[Inputs, Output]:
    """Return `jax.jit(function)`, its products of matrices in full precision.

    Accelerators round the factors of float32 products by default: good enough for a
    gradient, not for the small eigenvalues of a curvature matrix.
    """

    @functools.partial(jax.jit, **options)
    @functools.wraps(function)
    def run(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over a batch, as the `function` of a `MatVec`.

    Attributes:
      total: `total(params, vector, weight, batch, *functions)`, the weight times the
        sum over the examples of a batch of a linear map of the vector; hashable. Where
        a loss or a derivative of it is weighted, that costs nothing.
      microbatch_size: examples a piece; `None` takes the batch whole.
    """

    total: Callable[..., ArrayTree]
    microbatch_size: int | None = None

    @functools.partial(exact_jit, static_argnums=0)
    def __call__(
        self, vector: ArrayTree, params: Params, batch: tuple[Any, ...], *functions: Any
    ) -> ArrayTree:
        """Return the mean, shaped like the vector, in float32 at least."""
        mean = _mean(self.total, self.microbatch_size, vector, params, batch, functions)
        return jax.tree.map(
            lambda leaf, like: leaf.astype(wide_type(like)), mean, vector
        )


@dataclasses.dataclass(frozen=True)
class MeanForm:
    """The mean over a batch of a quadratic form, as the `form` of a `MatVec`.

    Attributes:
      total: as that of `Mean`, of a scalar that is quadratic in the vector.
      microbatch_size: examples a piece; `None` takes the batch whole.
    """

    total: Callable[..., jax.Array]
    microbatch_size: int | None = None

    @functools.partial(exact_jit, static_argnums=0)
    def __call__(
        self, vector: ArrayTree, params: Params, batch: tuple[Any, ...], *functions: Any
    ) -> jax.Array:
        """Return the mean, a scalar in float32 at least."""
        return _mean(self.total, self.microbatch_size, vector, params, batch, functions)


def mean_operator(
    total: Callable[..., ArrayTree],
    functions: tuple[Callable[..., Any], ...],
    params: Params,
    batch: Source,
    microbatch_size: int | None,
    form: Callable[..., jax.Array] | None = None,
) -> MatVec:
    """Return the mean of `total` over a batch as an operator, with the batch's event.

    Args:
      total: see `Mean`.
      functions: what the user gave: losses, models. They travel beside the arrays, so
        that one which is a `jax.tree_util.Partial` may hold arrays of its own.
      params: floating-point leaves.
      batch: `Public` or `Private`, leading axis the examples.
      microbatch_size: examples a piece, or `None`.
      form: see `MeanForm`, where that costs less.

    Raises:
      TypeError: parameters that are not real floating-point numbers, or a batch that
        does not say whether it is private.
      ValueError: an empty batch, leading axes that differ, or a size below 1.
    """
    if microbatch_size is not None:
        _check.integer("microbatch_size", microbatch_size, minimum=1)
    _check.real_leaves("params", params)
    operands = (params, arguments(batch), *map(as_operand, functions))
    return MatVec(
        Mean(total, microbatch_size),
        operands,
        raw_event(batch),
        form=None if form is None else MeanForm(form, microbatch_size),
    )


def as_operand(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """Return a function as a pytree, which `jax.jit` takes as an argument."""
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def losses(loss_fn: Callable[..., Any], *batch: ArrayTree) -> jax.Array:
    """Return the loss of every example, `(batch,)`, in float32 at least.

    Args:
      loss_fn: `loss_fn(*example) -> scalar`.
      *batch: the arguments, leading axis the examples.

    Raises:
      ValueError: a loss that is not a scalar.
      TypeError: a loss that is not a real floating-point number.
    """
    return jax.vmap(functools.partial(wide_loss, loss_fn))(*batch)


def wide_loss(loss_fn: Callable[..., Any], *example: Any) -> jax.Array:
    """Return the loss of one example in float32 at least; errors as of `losses`."""
    loss = loss_fn(*example)
    autodiff.check_scalar(loss)
    return jnp.asarray(loss, wide_type(loss))


def wide_type(leaf: Any) -> jnp.dtype:
    """Return the type of an array or of its shape, float32 at least."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def widened(tree: ArrayTree) -> ArrayTree:
    """Return the arrays in float32 at least."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, wide_type(leaf)), tree)


def in_one_precision(params: Params, vector: ArrayTree) -> tuple[Params, ArrayTree]:
    """Return both in the wider type of the two, leaf by leaf, float32 at least.

    Where a mesh has explicit axes, the vector goes where the parameters are.

    Raises:
      ValueError: `vector` does not have the structure and shapes of `params`.
      TypeError: a vector that is not of real floating-point numbers.
    """
    _check.same_shapes("vector", vector, params)
    _check.real_leaves("vector", vector)
    types = jax.tree.map(
        lambda *leaves: jnp.promote_types(*map(wide_type, leaves)), params, vector
    )
    point = jax.tree.map(jnp.asarray, params, types)
    vector = jax.tree.map(jnp.asarray, vector, types)
    return point, jax.tree.map(
        lambda leaf, like: _meshes.placed(leaf, _meshes.sharding_of(like)),
        vector,
        point,
    )


def _mean(
    total: Callable[..., Any],
    microbatch_size: int | None,
    vector: ArrayTree,
    params: Params,
    batch: tuple[Any, ...],
    functions: tuple[Any, ...],
) -> Any:
    point, direction = in_one_precision(params, vector)
    weight = 1 / _check.leading_axis("batch", batch)

    def of_piece(piece: tuple[Any, ...]) -> ArrayTree:
        return total(point, direction, weight, piece, *functions)

    with _meshes.context((params, batch)):
        return _in_pieces(of_piece, batch, microbatch_size)


def _in_pieces(
    total: Callable[[tuple[Any, ...]], ArrayTree],
    batch: tuple[Any, ...],
    size: int | None,
) -> ArrayTree:
    """Sum over pieces of a batch, one at a time; what remains is a smaller piece."""
    num_examples = _check.leading_axis("batch", batch)
    if size is None or num_examples <= size:
        return total(batch)
    pieces, remainder = _meshes.pieces(batch, size)

    def step(running: ArrayTree, piece: tuple[Any, ...]) -> tuple[ArrayTree, None]:
        return jax.tree.map(jnp.add, running, total(piece)), None

    def zero(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        zeros = jnp.zeros(leaf.shape, leaf.dtype)
        return _meshes.placed(zeros, _meshes.sharding_of(leaf))

    if remainder is None:
        one = jax.tree.map(lambda leaf: leaf[0], pieces)
        first = jax.tree.map(zero, jax.eval_shape(total, one))
    else:
        first = total(remainder)
    return jax.lax.scan(step, first, pieces)[0]
