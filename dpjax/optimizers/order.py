"""Refuse optimizers in which anything but the clip sees raw gradients.

The update is traced. In the traced program, what comes out may depend on the raw
gradients through the clip alone, and what arrives at the clip must be a function of one
example a row, and of nothing that an earlier batch left behind; otherwise the clip does
not bound what one example can contribute.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from dpjax.optimizers.incoming import CLIP_MARKER, NORMS_OF_CLIP
from dpjax.optimizers.spent import the_private_state
from dpjax.types import ArrayTree, Params

_ROWS = 3
_RAW = "raw gradients"


def check_optimizer(optimizer: optax.GradientTransformation, params: Params) -> None:
    """Raise when an optimizer cannot be private.

    Refused are: no private transformation, or several; accumulation over batches before
    the noise (`optax.MultiSteps`, `optax.apply_every`); any step before the noise that
    mixes examples (such as `optax.clip_by_global_norm`), remembers earlier batches
    (momentum), or decides by looking at raw gradients (`optax.apply_if_finite`); any
    step that carries raw gradients past the noise. Whatever comes after the noise is
    lawful.

    Where the gradients are a `ClippedGrads`, nothing at all may stand before the noise:
    even a per-example operation, lawful here, would change the sum and leave the
    sensitivity that it states.

    Args:
      optimizer: an optax optimizer that takes per-example gradients.
      params: the parameters that it is for; only shapes and dtypes matter.

    Raises:
      ValueError: the optimizer is refused; the message names the cause.
    """
    params = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.result_type(p)), params)
    state = optimizer.init(params)
    the_private_state(state)
    rows = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((_ROWS, *p.shape), p.dtype), params
    )
    trace = jax.make_jaxpr(optimizer.update, return_shape=True)
    with jax.disable_jit(False):  # the clip is known by the name of what is compiled
        traced, (new_updates, _) = trace(rows, state, params)
    _check_paths(traced, *map(_count, (rows, state, new_updates)))
    if _untouched(traced, list(range(_count(rows)))):
        return

    def arriving(updates: ArrayTree) -> list[np.ndarray]:
        found = _at_clip(traced, jax.tree.leaves((updates, state, params)))
        return [np.asarray(value) for value in found[: _count(updates)]]

    _check_rows(arriving, params)


def _check_paths(
    traced: core.ClosedJaxpr, num_raw: int, num_state: int, num_new: int
) -> None:
    """Follow raw gradients from the update's arguments to its results."""
    rest = len(traced.jaxpr.invars) - num_raw - num_state
    arguments = [*[_RAW] * num_raw, *range(num_state), *["params"] * rest]
    clips: list[_Clip] = []
    results = _follow(traced, [frozenset({name}) for name in arguments], clips)
    if len(clips) != 1:
        _refuse(f"{len(clips)} clipping operations in one update")
    new_updates, new_state = results[:num_new], results[num_new:]
    raw = _remembered_raw(new_state)
    if clips[0].settings & raw:
        _refuse("a clip norm that is chosen by looking at raw gradients")
    if clips[0].gradients & raw - {_RAW}:
        _refuse("a step that remembers earlier batches")
    if any(sources & raw for sources in new_updates):
        _refuse("a step that carries raw gradients past the noise")


def _remembered_raw(new_state: list[frozenset]) -> frozenset:
    """Return all arguments of an update that hold raw gradients, now or ever."""
    raw: frozenset = frozenset({_RAW})
    while True:
        found = {i for i, sources in enumerate(new_state) if sources & raw}
        if found <= raw:
            return raw
        raw |= found


def _check_rows(
    arriving: Callable[[ArrayTree], list[np.ndarray]], params: Params
) -> None:
    """Replace one example, also by extremes: the others must arrive as they were."""
    ordinary, others = _random_rows(params, 0), _random_rows(params, 1)
    for scale in (1.0, 1e-3):
        updates = _scaled(ordinary, scale)
        before = arriving(updates)
        for other in (1.0, 0.0, 1e15, np.nan):
            row = _scaled(others, other)
            changed = jax.tree.map(lambda u, v: u.at[0].set(v[0]), updates, row)
            for a, b in zip(before, arriving(changed), strict=True):
                if not np.array_equal(a[1:], b[1:]):
                    _refuse("a step that mixes the gradients of different examples")


def _refuse(cause: str) -> None:
    raise ValueError(
        "Expected nothing but per-example operations before the private "
        f"transformation, got {cause}. Move it behind the noise, as in "
        "privatize(optimizer, ...) or optax.chain(private, ...)."
    )


class _Clip(NamedTuple):
    """What the arguments of a clipping operation depend on."""

    gradients: frozenset
    settings: frozenset


def _follow(
    closed: core.ClosedJaxpr, arguments: list[frozenset], clips: list[_Clip]
) -> list[frozenset]:
    """Return what each result depends on, other than through the clip.

    Clipping operations that are met on the way are appended to `clips`.
    """
    jaxpr = closed.jaxpr
    sources = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> frozenset:
        constant = isinstance(atom, core.Literal)
        return frozenset() if constant else sources.get(atom, frozenset())

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if _is_clip(eqn):
            split = len(eqn.outvars) - NORMS_OF_CLIP
            gradients, settings = inputs[:split], inputs[split:]
            clips.append(_Clip(_union(gradients), _union(settings)))
            outputs = [_union([])] * len(eqn.outvars)
        elif _is_call(eqn):
            outputs = _follow(eqn.params["jaxpr"], inputs, clips)
        elif _contains_clip(eqn):
            _refuse(f"a decision or loop ({eqn.primitive.name}) around the noise")
        else:
            outputs = [_union(inputs)] * len(eqn.outvars)
        sources.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _at_clip(closed: core.ClosedJaxpr, arguments: list[Any]) -> list[Any]:
    """Run a traced update up to its one clip; return what arrives there."""
    place = _place_of_clip(closed.jaxpr)
    eqn = closed.jaxpr.eqns[place]
    before = closed.jaxpr.replace(eqns=closed.jaxpr.eqns[:place], outvars=eqn.invars)
    values = core.jaxpr_as_fun(closed.replace(jaxpr=before))(*arguments)
    return values if _is_clip(eqn) else _at_clip(eqn.params["jaxpr"], values)


def _untouched(closed: core.ClosedJaxpr, names: list[Any]) -> bool:
    """Tell whether the first arguments, called 0, 1, ..., are what is clipped."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.invars, names, strict=False))
    eqn = jaxpr.eqns[_place_of_clip(jaxpr)]
    arriving = [
        None if isinstance(atom, core.Literal) else known.get(atom)
        for atom in eqn.invars
    ]
    if not _is_clip(eqn):
        return _untouched(eqn.params["jaxpr"], arriving)
    split = len(eqn.outvars) - NORMS_OF_CLIP
    return arriving[:split] == list(range(split))


def _place_of_clip(jaxpr: core.Jaxpr) -> int:
    return next(i for i, e in enumerate(jaxpr.eqns) if _is_clip(e) or _is_call(e))


def _is_clip(eqn: Any) -> bool:
    return eqn.params.get("name") == CLIP_MARKER


def _is_call(eqn: Any) -> bool:
    """Tell whether an equation calls, without any condition, what has the clip."""
    return eqn.primitive.name in ("jit", "pjit") and _contains_clip(eqn)


def _contains_clip(eqn: Any) -> bool:
    inner = jax.tree.leaves(
        list(eqn.params.values()),
        is_leaf=lambda p: isinstance(p, core.Jaxpr | core.ClosedJaxpr),
    )
    jaxprs = [getattr(p, "jaxpr", p) for p in inner]
    return any(
        _is_clip(e) or _contains_clip(e)
        for jaxpr in jaxprs
        if isinstance(jaxpr, core.Jaxpr)
        for e in jaxpr.eqns
    )


def _union(sets: list[frozenset]) -> frozenset:
    return frozenset[Any]().union(*sets)


def _count(tree: ArrayTree) -> int:
    return len(jax.tree.leaves(tree))


def _scaled(tree: ArrayTree, factor: float) -> ArrayTree:
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


def _random_rows(params: Params, seed: int) -> ArrayTree:
    generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(leaf: Any) -> jax.Array:
        values = generator.normal(size=(_ROWS, *np.shape(leaf)))
        return jnp.asarray(values, jnp.result_type(leaf))

    return jax.tree.map(draw, params)
