"""The Fisher information as an operator: exact over classes, or by sampled targets."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _check, _meshes
from dpjax.curvature import means
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.outputs import (
    ModelFn,
    OutputLossFn,
    Product,
    mean_through_outputs,
)
from dpjax.curvature.sources import Public, Source, arguments
from dpjax.noise import keys
from dpjax.types import ArrayTree, KeyLike, Params

_DOMAIN = "dpjax.curvature.targets"
"""Names the stream of the targets; noise, sampling and probes have others."""


def true_fisher_operator(
    model_fn: ModelFn,
    output_loss_fn: OutputLossFn,
    params: Params,
    inputs: Source,
    *,
    num_classes: int,
    microbatch_size: int | None = None,
) -> MatVec:
    """Return the Fisher information of a model of finitely many classes, exactly.

    F v = mean over examples of sum_y p(y | output) g_y (g_y . v), where g_y is the
    gradient of -log p(y | output) and y runs over all classes; no targets are needed.
    For softmax cross-entropy it equals `ggn_operator`.

    Args:
      model_fn: `model_fn(params, *inputs) -> output` of ONE example.
      output_loss_fn: `output_loss_fn(output, target) -> -log p(target | output)` in
        nats, for an integer target; the probabilities add up to one.
      params: pytree of floating-point arrays.
      inputs: `Public((x,))` or `Private((x,))`, leading axis the examples; no targets.
      num_classes: targets are 0, ..., num_classes - 1.
      microbatch_size: examples that are differentiated at a time, to save memory.

    Returns:
      A positive semi-definite `MatVec` with the event of `inputs`.

    Raises:
      TypeError: as for `ggn_operator`.
      ValueError: as for `ggn_operator`; or the probabilities of the first example,
        where they are known, do not add up to one.

    References:
      Kunstner, Balles and Hennig 2019, arXiv 1905.12558, equation 2.

    >>> import jax, jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> matvec = true_fisher_operator(
    ...     lambda w, x: w * x, lambda output, y: -jax.nn.log_softmax(output)[y],
    ...     jnp.zeros(2), Public((jnp.array([2., 4.]),)), num_classes=2,
    ... )
    >>> print(matvec(jnp.array([1., 0.])))
    [ 2.5 -2.5]
    """
    _check.integer("num_classes", num_classes, minimum=2)
    operator = mean_through_outputs(
        _Enumerated(num_classes),
        model_fn,
        output_loss_fn,
        params,
        inputs,
        microbatch_size,
    )
    total = _first_total(params, arguments(inputs), num_classes, *operator.operands[2:])
    if not _check.is_traced(total) and abs(total - 1) > 1e-2:
        _check.fail(
            "an output_loss_fn that is -log p(target | output), of all num_classes",
            "the sum of its probabilities",
            float(total) if isinstance(inputs, Public) else "another",
        )
    return operator


def sampled_fisher_operator(
    model_fn: ModelFn,
    output_loss_fn: OutputLossFn,
    params: Params,
    inputs: Source,
    *,
    sample: Callable[[jax.Array, ArrayTree], ArrayTree],
    key: KeyLike,
    num_samples: int = 1,
    microbatch_size: int | None = None,
) -> MatVec:
    """Return an unbiased estimate of the Fisher information, by sampled targets.

    The targets are drawn once, here, so that the operator is one fixed matrix:
    F v = mean over examples and samples of g_y (g_y . v), g_y the gradient of
    -log p(y | output). For any number of classes, and for targets that are numbers.

    Args:
      model_fn: `model_fn(params, *inputs) -> output` of ONE example.
      output_loss_fn: `output_loss_fn(output, target) -> -log p(target | output)`, up to
        a constant.
      params: pytree of floating-point arrays.
      inputs: `Public((x,))` or `Private((x,))`, leading axis the examples; no targets.
      sample: `sample(key, output) -> target` draws from p(. | output).
      key: an integer, a typed key or raw key data.
      num_samples: targets drawn for each example.
      microbatch_size: examples that are differentiated at a time, to save memory.

    Returns:
      A positive semi-definite `MatVec` with the event of `inputs`.

    Raises:
      TypeError, ValueError: as for `ggn_operator`.

    >>> import jax, jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> matvec = sampled_fisher_operator(
    ...     jnp.vdot, lambda output, y: (output - y) ** 2 / 2,
    ...     jnp.zeros(1), Public((jnp.ones((1, 1)),)), key=0, num_samples=10_000,
    ...     sample=lambda key, output: output + jax.random.normal(key),
    ... )
    >>> print(matvec(jnp.ones(1)).round(1))  # The variance of the samples.
    [1.]
    """
    _check.integer("num_samples", num_samples, minimum=1)
    _check.real_leaves("params", params)
    batch = arguments(inputs)
    stream = keys.domain_key(keys.key_data(key), _DOMAIN)
    targets = _draw(
        means.as_operand(model_fn),
        means.as_operand(sample),
        num_samples,
        params,
        batch,
        stream,
    )
    sampled = dataclasses.replace(inputs, batch=(*batch, targets))
    return mean_through_outputs(
        _sampled, model_fn, output_loss_fn, params, sampled, microbatch_size
    )


@dataclasses.dataclass(frozen=True)
class _Enumerated:
    """The scores of all classes, by their probabilities; hashable."""

    num_classes: int

    def __call__(
        self, weight: float, inputs: tuple[Any, ...], output_loss_fn: OutputLossFn
    ) -> tuple[tuple[Any, ...], Product]:
        def weights(losses: jax.Array) -> jax.Array:
            return weight * _probabilities(losses)

        def product(output: ArrayTree, tangent: ArrayTree) -> ArrayTree:
            targets = jnp.arange(self.num_classes)
            return _scores(output_loss_fn, output, tangent, targets, weights)

        return inputs, jax.vmap(product)


def _sampled(
    weight: float, batch: tuple[Any, ...], output_loss_fn: OutputLossFn
) -> tuple[tuple[Any, ...], Product]:
    *inputs, targets = batch

    def weights(losses: jax.Array) -> jax.Array:
        return jnp.full_like(losses, weight / losses.size)

    def product(output: ArrayTree, tangent: ArrayTree, targets: ArrayTree) -> ArrayTree:
        return _scores(output_loss_fn, output, tangent, targets, weights)

    def products(outputs: ArrayTree, tangents: ArrayTree) -> ArrayTree:
        return jax.vmap(product)(outputs, tangents, targets)

    return tuple(inputs), products


def _scores(
    output_loss_fn: OutputLossFn,
    output: ArrayTree,
    tangent: ArrayTree,
    targets: ArrayTree,
    weights: Callable[[jax.Array], jax.Array],
) -> ArrayTree:
    """Return sum_y w_y g_y (g_y . tangent) of one example, g_y in its output."""

    def losses(output: ArrayTree) -> jax.Array:
        return means.losses(functools.partial(output_loss_fn, output), targets)

    values, push = jax.linearize(losses, output)
    pull = jax.linear_transpose(push, output)
    return pull(weights(values) * push(tangent))[0]


def _probabilities(losses: jax.Array) -> jax.Array:
    return jnp.exp(-losses)


@functools.partial(jax.jit, static_argnames="num_classes")
def _first_total(
    params: Params,
    inputs: tuple[Any, ...],
    num_classes: int,
    model_fn: ModelFn,
    output_loss_fn: OutputLossFn,
) -> jax.Array:
    """Return the sum over classes of the first example's probabilities."""
    first = jax.tree.map(lambda leaf: _meshes.gathered(leaf)[0], inputs)
    output = means.widened(model_fn(means.widened(params), *first))
    targets = jnp.arange(num_classes)
    losses = means.losses(functools.partial(output_loss_fn, output), targets)
    return jnp.sum(_probabilities(losses))


@functools.partial(jax.jit, static_argnames="num_samples")
def _draw(
    model_fn: ModelFn,
    sample: Callable[[jax.Array, ArrayTree], ArrayTree],
    num_samples: int,
    params: Params,
    inputs: tuple[Any, ...],
    key: jax.Array,
) -> ArrayTree:
    """Return targets `(batch, num_samples, ...)`."""
    example = jax.tree.leaves(inputs)[0]
    all_keys = jax.random.split(key, (example.shape[0], num_samples))
    all_keys = _meshes.along(all_keys, example)
    point = means.widened(params)

    def targets(own_keys: jax.Array, *example: Any) -> ArrayTree:
        output = means.widened(model_fn(point, *example))
        return jax.vmap(lambda key: sample(key, output))(own_keys)

    return jax.vmap(targets)(all_keys, *inputs)
