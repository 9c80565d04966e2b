"""Jaxprs: traced, flattened and evaluated one equation at a time.

Everything that touches the form of a jaxpr's equations goes through here, by what
`jax.extend.core` exports.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from dpjax import _manual

Equation = core.JaxprEqn
Env = dict[core.Var, Any]

_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Equations that only call a jaxpr: they are looked through."""

_REMATS = frozenset({"remat", "remat2", "checkpoint"})


def trace(fun: Callable[..., Any], *args: Any) -> tuple[core.ClosedJaxpr, Any]:
    """Return the flat jaxpr of `fun(*args)`, calls inlined, and its output's tree."""
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    return flatten(closed), jax.tree.structure(shape)


def flatten(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Return the jaxpr with every call replaced by what it calls."""
    if not any(is_call(eqn) for eqn in closed.jaxpr.eqns):
        return closed
    avals = [_manual.shaped(v.aval) for v in _inputs(closed)]
    num_consts = len(closed.consts)

    def inlined(*values: Any) -> list[Any]:
        return evaluate(closed.jaxpr, values[:num_consts], values[num_consts:])

    traced = jax.make_jaxpr(inlined)(*avals)
    flat = traced.jaxpr
    jaxpr = core.Jaxpr(
        (*flat.constvars, *flat.invars[:num_consts]),
        flat.invars[num_consts:],
        flat.outvars,
        flat.eqns,
        flat.effects,
        core.DebugInfo("tape", "flatten", None, None),
    )
    return core.ClosedJaxpr(jaxpr, (*traced.consts, *closed.consts))


def evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    """Evaluate a jaxpr, stepping into calls."""
    env: Env = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True)
    )
    for eqn in jaxpr.eqns:
        bind(eqn, env)
    return [read(env, atom) for atom in jaxpr.outvars]


def bind(eqn: Equation, env: Env) -> None:
    """Evaluate one equation and write its results into `env`."""
    values = [read(env, atom) for atom in eqn.invars]
    if is_call(eqn):
        closed = called(eqn)
        results = evaluate(closed.jaxpr, closed.consts, values)
    else:
        results = apply(eqn, values)
    env.update(zip(eqn.outvars, results, strict=True))


def apply(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation at `values`, one for each of its operands."""
    operands = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, core.Literal)
    }
    names = core.DebugInfo("tape", f"apply {eqn.primitive.name}", None, None)
    outvars, effects = eqn.outvars, eqn.effects
    jaxpr = core.Jaxpr((), tuple(operands), outvars, (eqn,), effects, names)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*operands.values())


def read(env: Env, atom: Any) -> Any:
    """Return the value of a variable or a literal."""
    return atom.val if isinstance(atom, core.Literal) else env[atom]


def is_call(eqn: Equation) -> bool:
    """Whether the equation only calls a jaxpr."""
    return eqn.primitive.name in _CALLS


def called(eqn: Equation) -> core.ClosedJaxpr:
    """Return what a call calls."""
    inner: Any = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return inner if isinstance(inner, core.ClosedJaxpr) else _close(inner)


def is_scan(eqn: Equation) -> bool:
    """Whether the equation is a `lax.scan` (or a loop that became one)."""
    return eqn.primitive.name == "scan"


def scan_bounds(eqn: Equation) -> tuple[int, int]:
    """Return where the carry of a scan begins, and ends, among its operands."""
    if "num_consts" in eqn.params:  # JAX before 0.12
        first = eqn.params["num_consts"]
        return first, first + eqn.params["num_carry"]
    constants, carry, _ = eqn.params["ft_in"].unpack()
    return len(constants), len(constants) + len(carry)


def is_convolution(eqn: Equation) -> bool:
    """Whether the equation is a convolution."""
    return eqn.primitive.name == "conv_general_dilated"


def is_remat(eqn: Equation) -> bool:
    """Whether the equation is a `jax.checkpoint`."""
    return eqn.primitive.name in _REMATS


def body(eqn: Equation) -> core.ClosedJaxpr:
    """Return the flat jaxpr inside of a scan or a remat."""
    inner = eqn.params["jaxpr"]
    return flatten(inner if isinstance(inner, core.ClosedJaxpr) else _close(inner))


def jaxprs_in(eqn: Equation) -> list[core.Jaxpr]:
    """Return the jaxprs among an equation's parameters."""
    return [
        value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
        for value in jax.tree.leaves(list(eqn.params.values()))
        if isinstance(value, core.ClosedJaxpr | core.Jaxpr)
    ]


def contains(jaxpr: core.Jaxpr, wanted: Callable[[Equation], bool]) -> bool:
    """Whether an equation is wanted, here or in a jaxpr inside."""
    return any(
        wanted(eqn) or any(contains(inner, wanted) for inner in jaxprs_in(eqn))
        for eqn in jaxpr.eqns
    )


def _close(jaxpr: core.Jaxpr) -> core.ClosedJaxpr:
    return core.ClosedJaxpr(jaxpr, ())


def _inputs(closed: core.ClosedJaxpr) -> list[Any]:
    return [*closed.jaxpr.constvars, *closed.jaxpr.invars]
