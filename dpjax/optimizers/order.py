"""Refuse optimizers in which something touches per-example gradients before the clip.

The update is traced, and the traced program is run up to the clipping. What arrives
there must be a function of one example a row, and of nothing that an earlier batch left
behind; otherwise the clip does not bound what one example can contribute.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from dpjax.optimizers.incoming import CLIP_MARKER
from dpjax.optimizers.spent import the_private_state
from dpjax.types import ArrayTree, Params

_ROWS = 3


def check_optimizer(optimizer: optax.GradientTransformation, params: Params) -> None:
    """Raise when an optimizer cannot be private.

    Refused are: no private transformation, or several; accumulation over batches before
    the noise (`optax.MultiSteps`, `optax.apply_every`); any step before the noise that
    mixes examples (such as `optax.clip_by_global_norm`), remembers earlier batches
    (momentum), or decides by looking at raw gradients (`optax.apply_if_finite`).
    Whatever comes after the noise is lawful.

    Args:
      optimizer: an optax optimizer that takes per-example gradients.
      params: the parameters that it is for; only shapes and dtypes matter.

    Raises:
      ValueError: the optimizer is refused; the message names the cause.
    """
    params = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.result_type(p)), params)
    state = optimizer.init(params)
    the_private_state(state)
    updates = _random_like(params, 0, (_ROWS,))
    traced = jax.make_jaxpr(optimizer.update)(updates, state, params)
    num_leaves = len(jax.tree.leaves(updates))

    def arriving(updates: ArrayTree, state: ArrayTree) -> list[np.ndarray]:
        args = jax.tree.leaves((updates, state, params))
        values = _values_at_clip(traced.jaxpr, traced.consts, args)
        return values[:num_leaves]

    base = arriving(updates, state)
    other_row = jax.tree.map(lambda u, v: u.at[0].set(v[0]), updates, _noise(updates))
    if any(
        not np.array_equal(a[1:], b[1:])
        for a, b in zip(base, arriving(other_row, state), strict=True)
    ):
        _refuse("a step that mixes the gradients of different examples")
    remembered = arriving(updates, _disturbed(state))
    if not all(map(np.array_equal, base, remembered)):
        _refuse("a step that remembers earlier batches")


def _refuse(cause: str) -> None:
    raise ValueError(
        "Expected nothing but per-example operations before the private "
        f"transformation, got {cause}. Move it behind the noise, as in "
        "privatize(optimizer, ...) or optax.chain(private, ...)."
    )


def _values_at_clip(jaxpr: Any, consts: Any, args: list[Any]) -> list[np.ndarray]:
    """Run a traced update up to the clip; return what arrives there."""
    found = _run(jaxpr, consts, args)
    if isinstance(found, _Arrived):
        return [np.asarray(value) for value in found.values]
    raise AssertionError("the private transformation did not clip")


class _Arrived:
    def __init__(self, values: list[Any]) -> None:
        self.values = values


def _run(jaxpr: Any, consts: Any, args: list[Any]) -> Any:
    """Evaluate equations one by one; stop at the marked call with its inputs."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if eqn.params.get("name") == CLIP_MARKER:
            return _Arrived(values)
        if not _contains_marker(eqn):
            outputs = _evaluate(eqn, values)
        elif eqn.primitive.name in ("jit", "pjit"):
            inner = eqn.params["jaxpr"]
            outputs = _run(inner.jaxpr, inner.consts, values)
            if isinstance(outputs, _Arrived):
                return outputs
        else:
            _refuse(f"a decision or loop ({eqn.primitive.name}) around the noise")
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _evaluate(eqn: Any, values: list[Any]) -> list[Any]:
    fresh = [core.Var(atom.aval) for atom in eqn.invars]
    single = core.Jaxpr([], fresh, eqn.outvars, [eqn.replace(invars=fresh)])
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, []))(*values)


def _contains_marker(eqn: Any) -> bool:
    inner = jax.tree.leaves(
        list(eqn.params.values()),
        is_leaf=lambda p: isinstance(p, core.Jaxpr | core.ClosedJaxpr),
    )
    jaxprs = [getattr(p, "jaxpr", p) for p in inner]
    return any(
        e.params.get("name") == CLIP_MARKER or _contains_marker(e)
        for jaxpr in jaxprs
        if isinstance(jaxpr, core.Jaxpr)
        for e in jaxpr.eqns
    )


def _random_like(tree: ArrayTree, seed: int, axes: tuple[int, ...] = ()) -> ArrayTree:
    generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(leaf: Any) -> jax.Array:
        values = generator.normal(size=(*axes, *np.shape(leaf)))
        return jnp.asarray(values, jnp.result_type(leaf))

    return jax.tree.map(draw, tree)


def _noise(updates: ArrayTree) -> ArrayTree:
    return _random_like(updates, 1)


def _disturbed(state: ArrayTree) -> ArrayTree:
    def disturb(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        return leaf + _random_like(leaf, 2)

    return jax.tree.map(disturb, state)
