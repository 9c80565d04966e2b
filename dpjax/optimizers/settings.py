"""The settings of a private step, checked as far as they are static."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

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


def checked(
    l2_norm_clip: Any,
    noise_multiplier: Any,
    expected_batch_size: Any,
    sampling_prob: Any,
) -> Settings:
    """Check the settings against their ranges and against each other."""
    if sampling_prob is not None and expected_batch_size is None:
        raise ValueError(
            "Expected expected_batch_size together with sampling_prob, got "
            "expected_batch_size=None. The size of a sampled batch is private and "
            "cannot be the divisor."
        )
    return Settings(
        rule=rules.as_rule(l2_norm_clip),
        noise_multiplier=_number(
            _check.non_negative, "noise_multiplier", noise_multiplier
        ),
        expected_batch_size=None
        if expected_batch_size is None
        else _number(_check.positive, "expected_batch_size", expected_batch_size),
        sampling_prob=None
        if sampling_prob is None
        else _number(_check.probability, "sampling_prob", sampling_prob),
    )


def _number(check: Callable[[str, Any], float], name: str, value: Any) -> Number:
    """Check a number; JAX arrays stay arrays, since they may be traced next time."""
    if not isinstance(value, jax.Array):
        return check(name, value)
    if value.shape != ():
        _check.fail("a scalar", f"{name}.shape", value.shape)
    if not _check.is_traced(value):
        check(name, value)
    return value


def one_key(key: KeyLike | None, seed: int | None) -> KeyLike | None:
    """Return the key that was given, under its name or under optax's old one."""
    if seed is None:
        return key
    if key is not None:
        _check.fail("only one of key and seed", "seed", seed)
    return seed
