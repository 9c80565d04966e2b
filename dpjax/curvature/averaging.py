"""One operator over a data set that comes in batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import dp_accounting
import jax

from dpjax import _check
from dpjax.curvature import means
from dpjax.curvature.matvec import MatVec, as_matvec
from dpjax.curvature.readings import joint_event
from dpjax.curvature.sources import Private, Source, arguments
from dpjax.types import ArrayTree


def average(
    operator_fn: Callable[[Source], MatVec], batches: Iterable[Source]
) -> MatVec:
    """Return an operator averaged over the examples of a data set.

    Every product goes once through the batches, on the host: memory is that of one
    batch, and each distinct shape compiles once. Batches are weighted by their numbers
    of examples, so that unequal ones give what the whole data set would in one batch.

    Args:
      operator_fn: `operator_fn(batch) -> MatVec`, the mean over the examples of one
        batch: `lambda batch: hessian_operator(loss_fn, params, batch)`.
      batches: `Public` or `Private` batches, to be gone through many times: a list, or
        an object whose `__iter__` starts anew, but not a generator. It is gone through
        once here, to see what it costs.

    Returns:
      A `MatVec` that JAX cannot trace. Its event is that of all batches together: one
      private batch among public ones makes it private.

    Raises:
      TypeError: `batches` is an iterator, which ends after one pass; or one of them
        does not say whether it is private.
      ValueError: there is no batch.

    >>> import jax.numpy as jnp
    >>> from dpjax.curvature import Public
    >>> from dpjax.curvature.hessian import hessian_operator
    >>> def operator(batch):
    ...     return hessian_operator(lambda w, x: x * w**2, jnp.zeros(()), batch)
    >>> batches = [Public(jnp.array([1., 2.])), Public(jnp.array([6.]))]
    >>> print(average(operator, batches)(jnp.ones(())))
    6.0
    """
    if isinstance(batches, Iterator):
        _check.fail(
            "batches that can be gone through again", "batches", batches, TypeError
        )
    events = [as_matvec(operator_fn(batch)).event for batch in batches]
    if not events:
        _check.fail("at least one batch", "batches", batches)
    event = joint_event(events)
    return MatVec(_Average(operator_fn, batches, event), (), event, traceable=False)


@dataclasses.dataclass(frozen=True, eq=False)
class _Average:
    operator_fn: Callable[[Source], MatVec]
    batches: Iterable[Source]
    event: dp_accounting.DpEvent | None

    def __call__(self, vector: ArrayTree) -> ArrayTree:
        total, num_examples = None, 0
        for batch in self.batches:
            size = _check.leading_axis("batch", arguments(batch))
            if isinstance(batch, Private) and self.event == dp_accounting.NoOpDpEvent():
                # The batch itself is private: its type is all that the message says.
                kind = type(batch).__name__
                _check.fail("public batches as in the first pass", "batch", kind)
            product = self.operator_fn(batch)(vector)
            total = _add(total, size, product)
            num_examples += size
        return jax.tree.map(lambda leaf: leaf / num_examples, total)


@jax.jit
def _add(total: ArrayTree | None, size: int, product: ArrayTree) -> ArrayTree:
    weighted = jax.tree.map(lambda leaf: size * leaf, means.widened(product))
    return weighted if total is None else jax.tree.map(jax.numpy.add, total, weighted)
