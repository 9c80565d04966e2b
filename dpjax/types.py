"""Type aliases shared by every module.

Pytree aliases are `Any`, as in optax: JAX has no static type for "a pytree of arrays".
"""

from collections.abc import Callable
from typing import Any

import jax

ArrayTree = Any
"""A pytree whose leaves are arrays."""

Params = ArrayTree
"""Parameters of a model: a pytree of floating-point arrays."""

LossFn = Callable[..., Any]
"""`loss_fn(params, *example) -> scalar`, or `(scalar, aux)` with `has_aux=True`."""

KeyLike = int | jax.Array
"""An integer seed, a typed PRNG key, or raw key data (uint32 words)."""

MatVec = Callable[[ArrayTree], ArrayTree]
"""A linear operator: takes a pytree and returns one of the same structure."""
