"""One block of a curvature matrix: some of the parameters, the others held fixed."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dpjax import _check
from dpjax.curvature import means
from dpjax.types import ArrayTree, Params


class Block(NamedTuple):
    """A function of some of its parameters, and their values.

    Attributes:
      function: `function(params, *args)` with `params` shaped like those here; a pytree
        that holds the other parameters.
      params: the parameters with None in place of each leaf that is held fixed.
    """

    function: jax.tree_util.Partial
    params: Params


def restrict(
    function: Callable[..., Any], params: Params, where: Callable[[str], bool]
) -> Block:
    """Return a loss or a model as a function of one block of its parameters.

    `hessian_operator(*restrict(loss_fn, params, where), batch)` is that block of the
    Hessian, and costs only the derivatives that it needs. The same holds for
    `fisher_operator`, and for a model in `ggn_operator`. New values of the parameters,
    also of the fixed ones, do not compile anything anew.

    Args:
      function: `function(params, *args)`.
      params: all parameters.
      where: tells from the path of a leaf as it reads in Python, such as
        `"['dense']['kernel']"`, whether it is in the block.

    Raises:
      ValueError: no leaf is in the block.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones(2), "b": jnp.zeros(())}
    >>> block = restrict(lambda p, x: p["w"] @ x + p["b"], params, lambda p: "w" in p)
    >>> print(block.params, block.function({"w": jnp.zeros(2), "b": None}, jnp.ones(2)))
    {'b': None, 'w': Array([1., 1.], dtype=float32)} 0.0
    """
    structure: Any
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = tuple(bool(where(_check.path_name(path))) for path, _ in paths)
    if not any(chosen):
        names = [_check.path_name(path) for path, _ in paths]
        _check.fail(f"a `where` that holds for one of {names}", "where", where)
    leaves = [
        leaf if inside else None
        for (_, leaf), inside in zip(paths, chosen, strict=True)
    ]
    fixed = [
        leaf for (_, leaf), inside in zip(paths, chosen, strict=True) if not inside
    ]
    joined = _Joined(structure, chosen)
    function = means.as_operand(function)
    return Block(
        jax.tree_util.Partial(joined, function, fixed), structure.unflatten(leaves)
    )


@dataclasses.dataclass(frozen=True)
class _Joined:
    """Call a function with the block's leaves and the fixed ones in their places."""

    structure: Any
    chosen: tuple[bool, ...]

    def __call__(
        self,
        function: Callable[..., Any],
        fixed: list[jax.Array],
        params: ArrayTree,
        *args: Any,
    ) -> Any:
        inside, outside = iter(jax.tree.leaves(params)), iter(fixed)
        leaves = [next(inside if chosen else outside) for chosen in self.chosen]
        return function(self.structure.unflatten(leaves), *args)
