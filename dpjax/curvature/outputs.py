"""Operators that go through a model's outputs: J^T A J, J the Jacobian of a batch.

A is what an operator does where the outputs are: the Hessian of their loss, or scores.
The product with a vector goes through the model forward and back. The quadratic form is
(J v).A(J v) and goes forward alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from dpjax import _check
from dpjax.curvature import along_lines, means, vectors
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.sources import Source
from dpjax.types import ArrayTree, Params

ModelFn = Callable[..., ArrayTree]
"""`model_fn(params, *inputs) -> output` of one example."""

OutputLossFn = Callable[..., jax.Array]
"""`output_loss_fn(output, target) -> scalar` of one example."""

Product = Callable[[ArrayTree, ArrayTree], ArrayTree]
"""`product(outputs, tangents) -> cotangents`, leading axis the examples: A."""

MakeProduct = Callable[
    [float, tuple[Any, ...], OutputLossFn], tuple[tuple[Any, ...], Product]
]
"""`make_product(weight, batch, output_loss_fn) -> (the model's inputs, weight * A)`."""


def mean_through_outputs(
    make_product: MakeProduct,
    model_fn: ModelFn,
    output_loss_fn: OutputLossFn,
    params: Params,
    batch: Source,
    microbatch_size: int | None,
) -> MatVec:
    """Return the mean of J^T A J over a batch as an operator that knows its form.

    Arguments and errors are those of `means.mean_operator`; `make_product` is hashable.
    """
    return means.mean_operator(
        _Through(make_product, _pulled_back),
        (model_fn, output_loss_fn),
        params,
        batch,
        microbatch_size,
        _Through(make_product, _form),
    )


@dataclasses.dataclass(frozen=True)
class _Through:
    """J^T A J of a batch, as the `total` of a mean: of a product or of a form.

    Attributes:
      make_product: makes A.
      end: what is made of it: `_pulled_back` or `_form`.
    """

    make_product: MakeProduct
    end: Callable[..., ArrayTree]

    def __call__(
        self,
        params: Params,
        vector: ArrayTree,
        weight: float,
        batch: tuple[Any, ...],
        model_fn: ModelFn,
        output_loss_fn: OutputLossFn,
    ) -> Any:
        inputs, product = self.make_product(weight, batch, output_loss_fn)
        return self.end(_outputs(model_fn, inputs), product, params, vector)


def _pulled_back(
    outputs: Callable[[Params], ArrayTree],
    product: Product,
    params: Params,
    vector: ArrayTree,
) -> ArrayTree:
    """Return J^T A J v."""
    output, push = jax.linearize(outputs, params)
    return jax.linear_transpose(push, params)(product(output, push(vector)))[0]


def _form(
    outputs: Callable[[Params], ArrayTree],
    product: Product,
    params: Params,
    vector: ArrayTree,
) -> jax.Array:
    """Return (J v).A(J v)."""
    output, tangent = jax.jvp(outputs, (params,), (vector,))
    form = vectors.dot(tangent, product(output, tangent))
    return along_lines.over_devices(form, (params, vector))


def _outputs(
    model_fn: ModelFn, inputs: tuple[Any, ...]
) -> Callable[[Params], ArrayTree]:
    def outputs(params: Params) -> ArrayTree:
        output = jax.vmap(lambda *example: model_fn(params, *example))(*inputs)
        _check.real_leaves("output", output)
        return means.widened(output)

    return outputs
