"""The two halves of a program, evaluated."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dpjax import _equations
from dpjax._equations import Env
from dpjax.clipping.tape import dependence
from dpjax.clipping.tape.guard import guarded
from dpjax.clipping.tape.program import Nested, Plain, Program, Public, Tap
from dpjax.clipping.tape.residuals import is_kept

Needs = tuple[list[Any], list[Any]]
"""Values of a program's `needs`, and the same of each nested program."""


def public(program: Program, env: Env) -> Needs:
    """Evaluate what no example takes part in; `env` receives every value.

    Values of a scan's body that change from step to step get a leading axis.
    """
    env.update(zip(program.closed.jaxpr.constvars, program.closed.consts, strict=True))
    nested = []
    for step in program.steps:
        if isinstance(step, Public):
            _equations.bind(step.eqn, env)
        elif isinstance(step, Nested):
            run = _public_scan if step.is_scan else _public_remat
            nested.append(run(step, env))
    return [env[var] for var in program.needs], nested


def replay(
    program: Program, env: Env, needs: Needs, probes: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Evaluate what belongs to one example, with `probes` added to the taps' results.

    Args:
      program: the program.
      env: values of the inputs that differ between examples.
      needs: what `public` returned.
      probes: as `zero_probes` makes them.

    Returns:
      Values of the outputs (`None` for those of the public part), and the records: for
      each tap the operands that are no weights, for each nested program a list of them.
    """
    own, nested = needs
    env.update(zip(program.needs, own, strict=True))
    pending, added, records = iter(nested), iter(probes), []
    for step in program.steps:
        if isinstance(step, Plain):
            _equations.bind(step.eqn, env)
        elif isinstance(step, Tap):
            records.append(_replay_tap(step, env, next(added)))
        elif isinstance(step, Nested):
            run = _replay_scan if step.is_scan else _replay_remat
            records.append(run(step, env, next(pending), next(added)))
        elif dependence.float_view(step.eqn) and step.eqn.invars[0] in env:
            _equations.bind(step.eqn, env)
    outputs = [
        _equations.read(env, var) if isinstance(var, core.Literal) else env.get(var)
        for var in program.outvars
    ]
    return outputs, records


def zero_probes(program: Program) -> list[Any]:
    """Return zeros for the results of every tap, with an axis for each scan."""
    probes: list[Any] = []
    for step in program.steps:
        if isinstance(step, Tap):
            avals = [step.outvars[i].aval for i in step.probed]
            probes.append([jnp.zeros(aval.shape, aval.dtype) for aval in avals])
        elif isinstance(step, Nested):
            inner = zero_probes(step.program)
            if step.is_scan:
                length = step.eqn.params["length"]
                inner = jax.tree.map(
                    lambda z, n=length: jnp.zeros((n, *z.shape), z.dtype), inner
                )
            probes.append(inner)
    return probes


def _replay_tap(tap: Tap, env: Env, probes: list[Any]) -> list[Any]:
    values = [_equations.read(env, atom) for atom in tap.invars]
    results = values if tap.eqn is None else _equations.apply(tap.eqn, values)
    for i, probe in zip(tap.probed, probes, strict=True):
        results[i] = guarded(results[i] + probe)
    env.update(zip(tap.outvars, results, strict=True))
    return [values[i] for i in tap.records]


def _public_remat(step: Nested, env: Env) -> Needs:
    inner = _inputs(step, env, from_example=False)
    needs = public(step.program, inner)
    for var, inside in zip(step.eqn.outvars, step.program.outvars, strict=True):
        if not step.program.from_example(inside):
            env[var] = _equations.read(inner, inside)
    return needs


def _replay_remat(step: Nested, env: Env, needs: Needs, probes: list[Any]) -> Any:
    program = step.program
    inputs = _inputs(step, env, from_example=True)
    kept = [i for i, v in enumerate(program.outvars) if program.from_example(v)]

    def body(inputs: list[Any], needs: Needs, probes: list[Any]) -> Any:
        inner = dict(zip(names, inputs, strict=True))
        outputs, records = replay(program, inner, needs, probes)
        return [outputs[i] for i in kept], records

    names = list(inputs)
    options = {key: step.eqn.params[key] for key in ("prevent_cse", "policy")}
    run = jax.checkpoint(body, **options)
    outputs, records = run(list(inputs.values()), needs, probes)
    env.update(zip((step.eqn.outvars[i] for i in kept), outputs, strict=True))
    return records


def _public_scan(step: Nested, env: Env) -> Needs:
    """Evaluate the public part of a scan: what varies step by step, the rest once."""
    program, (first, last) = step.program, step.bounds
    known = _inputs(step, env, from_example=False)
    varying = [i for i, v in enumerate(program.invars) if v in known and i >= first]
    carried = [program.invars[i] for i in varying if i < last]
    stepped = [program.invars[i] for i in varying if i >= last]
    fixed = {v: x for v, x in known.items() if v not in {*carried, *stepped}}
    emitted = [i for i, (v, varies) in enumerate(_entries(program)) if varies]
    emitted = [i for i in emitted if _entries(program)[i][0] not in stepped]
    outputs = [i for i, v in enumerate(program.outvars) if not program.from_example(v)]
    carry_out = [i for i in outputs if i < last - first]
    ys_out = [i for i in outputs if i >= last - first]

    def evaluate(carry: list[Any], xs: list[Any]) -> tuple[list[Any], Env]:
        inner = {**fixed, **dict(zip((*carried, *stepped), (*carry, *xs), strict=True))}
        return jax.tree.leaves(public(program, inner)), inner

    def body(carry: list[Any], xs: list[Any]) -> Any:
        values, inner = evaluate(carry, xs)
        outs = {i: _equations.read(inner, program.outvars[i]) for i in outputs}
        ys = ([values[i] for i in emitted], [outs[i] for i in ys_out])
        return [outs[i] for i in carry_out], ys

    carry, xs = [known[v] for v in carried], [known[v] for v in stepped]
    values, _ = evaluate(carry, [_first(x) for x in xs])
    if emitted or outputs:
        end, (stacked, ys) = jax.lax.scan(body, carry, xs, **_scan_options(step))
        names = [step.eqn.outvars[i] for i in (*carry_out, *ys_out)]
        env.update(zip(names, (*end, *ys), strict=True))
        for i, value in zip(emitted, stacked, strict=True):
            values[i] = value
    for i, (var, _) in enumerate(_entries(program)):
        values[i] = known[var] if var in stepped else values[i]
    return jax.tree.unflatten(_structure(program), values)


def _replay_scan(step: Nested, env: Env, needs: Needs, probes: list[Any]) -> Any:
    program, (first, last) = step.program, step.bounds
    inputs = _inputs(step, env, from_example=True)
    names = [v for v in program.invars if v in inputs]
    kinds = [i for i, v in enumerate(program.invars) if v in inputs]
    consts = {v: inputs[v] for i, v in zip(kinds, names, strict=True) if i < first}
    carried = [v for i, v in zip(kinds, names, strict=True) if first <= i < last]
    stepped = [v for i, v in zip(kinds, names, strict=True) if i >= last]
    varies = [varies for _, varies in _entries(program)]
    values, structure = jax.tree.flatten(needs)
    kept = [i for i, v in enumerate(program.outvars[last - first :], last - first)]
    kept = [i for i in kept if program.from_example(program.outvars[i])]
    looped = [
        i
        for i, v in enumerate(program.invars[first:last])
        if program.sources[v].from_example
    ]

    def body(carry: list[Any], slices: Any) -> Any:
        xs, stacked, probes = slices
        slots = iter(stacked)
        merged = [
            next(slots) if varied else value
            for value, varied in zip(values, varies, strict=True)
        ]
        inner = {
            **consts,
            **dict(zip((*carried, *stepped), (*carry, *xs), strict=True)),
        }
        outputs, records = replay(
            program, inner, jax.tree.unflatten(structure, merged), probes
        )
        return [outputs[i] for i in looped], ([outputs[i] for i in kept], records)

    stacked = [value for value, varied in zip(values, varies, strict=True) if varied]
    end, (ys, records) = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False, policy=is_kept),
        [inputs[v] for v in carried],
        ([inputs[v] for v in stepped], stacked, probes),
        **_scan_options(step),
    )
    outvars = [step.eqn.outvars[i] for i in (*looped, *kept)]
    env.update(zip(outvars, (*end, *ys), strict=True))
    return records


def _entries(program: Program) -> list[tuple[Any, bool]]:
    """Return the needed variables in order, and whether each varies in this scan."""
    level = program.level

    def walk(inner: Program) -> list[tuple[Any, bool]]:
        own = [(var, inner.sources[var].stack[level - 1]) for var in inner.needs]
        return own + [entry for step in inner.nested for entry in walk(step.program)]

    return walk(program)


def _structure(program: Program) -> Any:
    def walk(inner: Program) -> Needs:
        return [0 for _ in inner.needs], [walk(step.program) for step in inner.nested]

    return jax.tree.structure(walk(program))


def _inputs(step: Nested, env: Env, *, from_example: bool) -> Env:
    """Return what a body takes from the example, or from the public part."""
    pairs = zip(step.program.invars, step.invars, strict=True)
    return {
        var: _equations.read(env, atom)
        for var, atom in pairs
        if step.program.from_example(var) == from_example
    }


def _scan_options(step: Nested) -> dict[str, Any]:
    return {key: step.eqn.params[key] for key in ("length", "reverse", "unroll")}


def _first(xs: Any) -> Any:
    return xs[0] if xs.shape[0] else jnp.zeros(xs.shape[1:], xs.dtype)
