"""How the arguments of a loss are told apart: parameters, examples, key, constants."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check, autodiff
from dpjax.types import ArrayTree, LossFn, Params


class Arguments(NamedTuple):
    """The positional arguments of one call, sorted by role."""

    params: Params
    examples: tuple[ArrayTree, ...]
    key: jax.Array | None
    constants: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which position of a loss function has which role."""

    argnums: int | tuple[int, ...]
    batch_argnums: tuple[int, ...] | None
    prng_argnum: int | None
    keep_batch_dim: bool
    has_aux: bool

    @classmethod
    def make(
        cls,
        argnums: int | Sequence[int],
        batch_argnums: int | Sequence[int] | None,
        prng_argnum: int | None,
        keep_batch_dim: bool,
        has_aux: bool,
    ) -> "Roles":
        """Check the positions against each other."""
        diff = autodiff.as_argnums(argnums)
        batched = None
        if batch_argnums is not None:
            batched = autodiff.as_argnums(batch_argnums)
            if set(batched) & {*diff, prng_argnum}:
                _check.fail(
                    f"positions outside argnums={diff} and prng_argnum={prng_argnum}",
                    "batch_argnums",
                    batch_argnums,
                )
        if prng_argnum is not None:
            _check.integer("prng_argnum", prng_argnum, minimum=0)
            if prng_argnum in diff:
                _check.fail(f"a position not in {diff}", "prng_argnum", prng_argnum)
        single = argnums if isinstance(argnums, int) else diff
        return cls(single, batched, prng_argnum, keep_batch_dim, has_aux)

    def sort(self, args: tuple[Any, ...]) -> Arguments:
        """Split positional arguments by role, and check what can be checked."""
        diff = autodiff.as_argnums(self.argnums)
        needed = max(*diff, self.prng_argnum or 0, *(self.batch_argnums or (0,)))
        if len(args) <= needed:
            _check.fail(
                f"at least {needed + 1} positional arguments", "len(args)", len(args)
            )
        batched = self._batched(len(args))
        chosen = tuple(args[i] for i in diff)
        params = chosen[0] if isinstance(self.argnums, int) else chosen
        _check.float_leaves("params", params)
        examples = tuple(args[i] for i in batched)
        _check.leading_axis("batch", examples)
        key = None if self.prng_argnum is None else args[self.prng_argnum]
        rest = set(range(len(args))) - {*diff, *batched, self.prng_argnum}
        return Arguments(params, examples, key, tuple(args[i] for i in sorted(rest)))

    def example_loss(self, loss_fn: LossFn, constants: Any) -> Callable[..., Any]:
        """Return `(params, examples, key) -> (loss, aux)` for one example."""

        def fn(params: Params, examples: tuple[ArrayTree, ...], key: Any) -> Any:
            if self.keep_batch_dim:
                examples = jax.tree.map(lambda leaf: leaf[None], examples)
            args = self._join(Arguments(params, examples, key, constants))
            out = loss_fn(*args)
            loss, aux = out if self.has_aux else (out, None)
            autodiff.check_scalar(loss)
            return loss, aux

        return fn

    def example_keys(self, key: Any, positions: jax.Array) -> Any:
        """Give each example a key of its own: the call's key and its position."""
        if self.prng_argnum is None:
            return None
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)

    def _batched(self, num_args: int) -> tuple[int, ...]:
        if self.batch_argnums is not None:
            return self.batch_argnums
        taken = {*autodiff.as_argnums(self.argnums), self.prng_argnum}
        return tuple(i for i in range(num_args) if i not in taken)

    def _join(self, arguments: Arguments) -> list[Any]:
        params = arguments.params
        num_args = len(arguments.examples) + len(arguments.constants)
        diff = autodiff.as_argnums(self.argnums)
        num_args += len(diff) + (self.prng_argnum is not None)
        args: list[Any] = [None] * num_args
        parts = params if isinstance(self.argnums, tuple) else (params,)
        for i, part in zip(diff, parts, strict=True):
            args[i] = part
        for i, example in zip(self._batched(num_args), arguments.examples, strict=True):
            args[i] = example
        if self.prng_argnum is not None:
            args[self.prng_argnum] = arguments.key
        filled = {*diff, *self._batched(num_args), self.prng_argnum}
        rest = [i for i in range(num_args) if i not in filled]
        for i, constant in zip(rest, arguments.constants, strict=True):
            args[i] = constant
        return args


def as_mask(mask: Any, batch_size: int) -> jax.Array | None:
    """Return `mask` as booleans `(batch,)`, or `None`."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape != (batch_size,):
        _check.fail(f"shape ({batch_size},)", "mask.shape", mask.shape)
    if mask.dtype != jnp.bool_:
        _check.fail("booleans", "mask.dtype", str(mask.dtype), TypeError)
    return mask


def split_constants(constants: tuple[Any, ...]) -> tuple[Any, Any]:
    """Split constants into those that are arrays and those that a program is built on.

    Strings, booleans, `None` and other objects select what the loss computes: they stay
    Python values, and must be hashable.
    """
    arrays = tuple(c if _is_array_tree(c) else None for c in constants)
    static = tuple(None if _is_array_tree(c) else c for c in constants)
    return arrays, static


def merge_constants(
    arrays: tuple[Any, ...], static: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Undo `split_constants`."""
    pairs = zip(arrays, static, strict=True)
    return tuple(fixed if array is None else array for array, fixed in pairs)


def _is_array_tree(constant: Any) -> bool:
    leaves = jax.tree.leaves(constant)
    shape = jax.ShapeDtypeStruct
    kinds = (jax.Array, np.ndarray, np.generic, float, complex, shape)
    return bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)
