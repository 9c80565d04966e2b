"""Taps that have the same cotangent, so that it is written down once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from dpjax.clipping.tape.program import Step, Tap


def with_shared_cotangents(
    steps: Sequence[Step], jaxpr: core.Jaxpr
) -> tuple[Step, ...]:
    """Find taps whose result only goes into a sum that is a tap too.

    In y = x @ w + b both taps have the cotangent of y: it is written down once.
    """
    uses: dict[Any, list[Any]] = {}
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if not isinstance(atom, core.Literal):
                uses.setdefault(atom, []).append(eqn)
    for atom in jaxpr.outvars:
        if not isinstance(atom, core.Literal):
            uses.setdefault(atom, []).append(None)
    tapped = {s.outvars[0] for s in steps if isinstance(s, Tap) and s.eqn is not None}

    def final(var: Any) -> Any:
        """Return the last tapped sum that `var` only goes into, or `None`."""
        (eqn, *others) = uses.get(var, [None])
        if others or eqn is None or eqn.primitive.name not in ("add", "add_any"):
            return None
        total = eqn.outvars[0]
        same = (var.aval.shape, var.aval.dtype) == (total.aval.shape, total.aval.dtype)
        return (final(total) or (total if total in tapped else None)) if same else None

    return tuple(
        dataclasses.replace(step, shared=final(step.outvars[0]))
        if isinstance(step, Tap) and step.eqn is not None
        else step
        for step in steps
    )
