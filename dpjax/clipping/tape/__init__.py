"""The tape: where the parameters of a loss meet its data, and what was seen there.

The loss of ONE example is traced to a jaxpr. Values that depend on parameters alone and
values that depend on the example meet in few equations: matrix products, convolutions,
table look-ups, additions of a bias. Call such an equation y = f(x, w) a tap. By the
chain rule the example's gradient with respect to w is the pull-back of dL/dy through
f at x: x and dL/dy are all that is needed, and both come out of one forward and one
backward pass that never forms the gradient (Goodfellow 2015; Lee and Kifer 2021).

`record` finds the taps. `Tape.run` replays the loss with a zero added to the result of
each tap and differentiates with respect to those zeros. `Tape.sites` says what was
recorded where. Nothing here knows of norms or of clipping.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dpjax import _equations, _manual
from dpjax.clipping.tape import dependence
from dpjax.clipping.tape.dependence import Piece, Source
from dpjax.clipping.tape.program import Nested, Program, Tap
from dpjax.clipping.tape.replay import public, replay, zero_probes
from dpjax.clipping.tape.sites import Seen, Site, sites_of
from dpjax.clipping.tape.splitting import split
from dpjax.types import ArrayTree, Params

__all__ = ["Piece", "Seen", "Site", "Source", "Tape", "record"]


class Tape:
    """The taps of a loss, and its two halves.

    Attributes:
      sites: every weight at every tap.
    """

    def __init__(self, program: Program, tree: Any) -> None:
        self._program = program
        self._tree = tree
        self.sites = tuple(sites_of(program))

    def entries(self, leaves: list[jax.Array]) -> Any:
        """Evaluate what no example takes part in.

        Args:
          leaves: the parameters' leaves.

        Returns:
          What `run` takes; its leaves are the values that `Site.entry` counts.
        """
        names = self._program.invars[: len(leaves)]
        return public(self._program, dict(zip(names, leaves, strict=True)))

    def run(self, entries: Any, example: list[Any]) -> tuple[Any, list[Seen]]:
        """Replay the loss of one example, forward and backward.

        Returns:
          `(loss, aux)`, and what was seen at each tap.
        """
        program = self._program
        example = [*example, jnp.zeros((), jnp.float32)]
        names = program.invars[len(program.invars) - len(example) :]

        def loss_at(probes: list[Any]) -> Any:
            env = dict(zip(names, example, strict=True))
            outputs, records = replay(program, env, entries, probes)
            return outputs[0], (outputs, records)

        axes = _manual.axes_of((entries, example))
        probes = _manual.varying(zero_probes(program), axes)
        loss, pull, (outputs, records) = jax.vjp(loss_at, probes, has_aux=True)
        (cotangents,) = pull(jnp.ones_like(loss))
        seen = [Seen(*pair) for pair in _pairs(program, records, cotangents)]
        return jax.tree.unflatten(self._tree, outputs), seen

    @property
    def has_own_kernels(self) -> bool:
        """Whether a convolution may take a kernel that differs between examples."""
        return self._program.has_own_kernels


def record(loss: Callable[..., Any], params: Params, example: ArrayTree) -> Tape:
    """Find the taps of `loss(params, example) -> (scalar, aux)`.

    Args:
      loss: the loss of one example.
      params: the parameters.
      example: one example's shapes and dtypes.
    """
    zero = jax.ShapeDtypeStruct((), jnp.float32)

    def with_zero(leaves: list[Any], example: Any, zero: Any) -> Any:
        value, aux = loss(jax.tree.unflatten(structure, leaves), example)
        # A loss that does not depend on the example at all is then a tap like others.
        return value + zero.astype(value.dtype), aux

    leaves, structure = jax.tree.flatten(params)
    closed, tree = _equations.trace(with_zero, leaves, example, zero)
    inputs = [dependence.parameter(i) for i in range(len(leaves))]
    inputs += [dependence.EXAMPLE] * (len(closed.jaxpr.invars) - len(leaves))
    num_outputs = len(closed.jaxpr.outvars)
    active = [True] + [False] * (num_outputs - 1)
    program = split(closed, inputs, active, [True] * num_outputs)
    return Tape(program, tree)


def _pairs(
    program: Program, records: list[Any], cotangents: list[Any]
) -> Iterator[tuple[Any, Any]]:
    """Pair what was recorded with the cotangents, tap by tap."""
    steps = [step for step in program.steps if isinstance(step, Tap | Nested)]
    triples = list(zip(steps, records, cotangents, strict=True))
    at_result = {s.outvars[0]: ct for s, _, ct in triples if isinstance(s, Tap)}
    for step, inputs, pulled in triples:
        if isinstance(step, Nested):
            yield from _pairs(step.program, inputs, pulled)
        elif step.shared is not None:
            yield inputs, at_result[step.shared]
        else:
            yield inputs, pulled
