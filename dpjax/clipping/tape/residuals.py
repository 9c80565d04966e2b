"""What a loop's body keeps for the way back, and what it computes again."""

from typing import Any

_CHEAP = frozenset({"add", "sub", "mul", "neg", "square", "integer_pow"})


def is_kept(primitive: Any, *operands: Any, **_: Any) -> bool:
    """Whether the result of an equation is kept: a policy of `jax.checkpoint`.

    All is, but what follows from ONE array at the cost of reading it. The derivative of
    a sigmoid asks for s and for 1 - s: the loop of a recurrent cell would write both
    down for each step, and read them again.

    Args:
      primitive: the equation's.
      *operands: shapes and dtypes of its operands.
    """
    if primitive.name not in _CHEAP:
        return True
    arrays = sum(aval.shape != () for aval in operands)
    return arrays != 1 and len(operands) > 1
