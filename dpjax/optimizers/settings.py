"""The settings of a private step, checked as far as they are static."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.clipping import rules
from dpjax.types import KeyLike

Number = float | jax.Array


class Settings(NamedTuple):
    """The checked settings of a private step."""

    rule: rules.ClippingRule
    noise_multiplier: Number
    expected_batch_size: Number | None
    sampling_prob: Number | None
    max_copies: int


def checked(
    l2_norm_clip: Any,
    noise_multiplier: Any,
    expected_batch_size: Any,
    sampling_prob: Any,
    max_copies: Any,
) -> Settings:
    """Check the settings against their ranges and against each other."""
    if sampling_prob is not None and expected_batch_size is None:
        raise ValueError(
            "Expected expected_batch_size together with sampling_prob, got "
            "expected_batch_size=None. The size of a sampled batch is private and "
            "cannot be the divisor."
        )
    copies = _check.integer("max_copies", max_copies, minimum=1)
    if copies > 1 and sampling_prob is not None:
        _check.fail("1 with sampling_prob", "max_copies", copies)
    return Settings(
        rule=rules.as_rule(l2_norm_clip),
        noise_multiplier=_number(
            _check.non_negative, "noise_multiplier", noise_multiplier
        ),
        expected_batch_size=None
        if expected_batch_size is None
        else _number(_check.positive, "expected_batch_size", expected_batch_size),
        sampling_prob=None if sampling_prob is None else _sampling_prob(sampling_prob),
        max_copies=copies,
    )


def _number(check: Callable[[str, Any], float], name: str, value: Any) -> Number:
    """Check a number; JAX arrays stay arrays, of float32 at least."""
    if not isinstance(value, jax.Array):
        return check(name, value)
    if value.shape != ():
        _check.fail("a scalar", f"{name}.shape", value.shape)
    if not _check.is_traced(value):
        check(name, value)
    kinds = jnp.integer, jnp.floating
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        _check.fail("a real number", f"{name}.dtype", str(value.dtype), TypeError)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _sampling_prob(value: Any) -> Number:
    if isinstance(value, jax.Array) and value.dtype in (jnp.bfloat16, jnp.float16):
        raise TypeError(
            "Expected a sampling_prob of at least float32, got sampling_prob.dtype="
            f"{value.dtype}. A rounded probability is not the one that batches are "
            "drawn with: give inject_hyperparams hyperparam_dtype=jnp.float32."
        )
    return _number(_check.probability, "sampling_prob", value)


def one_key(key: KeyLike | None, seed: int | None) -> KeyLike | None:
    """Return the key that was given, under its name or under optax's old one."""
    if seed is None:
        return key
    if key is not None:
        _check.fail("only one of key and seed", "seed", seed)
    return seed
