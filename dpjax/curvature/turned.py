"""Products that come out the way around in which they are needed.

JAX writes the derivative of x @ w with respect to w as a product and its transpose. XLA
makes one product of the two, unless something comes between them: in the derivative of
a gradient that is the sum of two products, and each matrix of a Hessian-vector product
is then written twice more. Where the factors of the gradient's product change places
first, no transpose is left to be differentiated.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from dpjax import _equations
from dpjax._equations import Env, Equation
from dpjax.types import ArrayTree


def without_transposes(
    function: Callable[[ArrayTree], ArrayTree], like: ArrayTree
) -> Callable[[ArrayTree], ArrayTree]:
    """Return the same function, without transposes of products of two arrays.

    Those inside of loops and branches stay as they are.

    Args:
      function: of one pytree; traced once.
      like: its argument, or arrays of the same types.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(like)
    structure = jax.tree.structure(shape)

    def turned(argument: ArrayTree) -> ArrayTree:
        leaves = jax.tree.leaves(argument)
        results = _evaluate(closed.jaxpr, closed.consts, leaves)
        return jax.tree.unflatten(structure, results)

    return turned


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    """Evaluate a jaxpr with its products turned, calls stepped into."""
    variables = (*jaxpr.constvars, *jaxpr.invars)
    env: Env = dict(zip(variables, (*consts, *args), strict=True))
    products = _transposed_products(jaxpr)
    turned = set(map(id, products.values()))
    for eqn in jaxpr.eqns:
        if id(eqn) in turned:
            continue
        result: Any = eqn.outvars[0] if eqn.outvars else None
        if result in products:
            env[result] = _turned(products[result], env)
        elif _equations.is_call(eqn):
            closed = _equations.called(eqn)
            values = [_equations.read(env, atom) for atom in eqn.invars]
            results = _evaluate(closed.jaxpr, closed.consts, values)
            env.update(zip(eqn.outvars, results, strict=True))
        else:
            _equations.bind(eqn, env)
    return [_equations.read(env, atom) for atom in jaxpr.outvars]


def _transposed_products(jaxpr: core.Jaxpr) -> dict[Any, Equation]:
    """Return results of transposes, with the products that they only exchange."""
    atoms = [*jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    uses = Counter(atom for atom in atoms if not isinstance(atom, core.Literal))
    made = {
        eqn.outvars[0]: eqn
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "dot_general" and uses[eqn.outvars[0]] == 1
    }
    return {
        eqn.outvars[0]: made[eqn.invars[0]]
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "transpose"
        and eqn.invars[0] in made
        and _exchanges(eqn.params["permutation"], made[eqn.invars[0]])
    }


def _exchanges(permutation: Sequence[int], product: Equation) -> bool:
    """Whether a permutation puts the axes of a product's second factor first."""
    if product.params.get("out_sharding") is not None:
        return False
    if isinstance(product.params["precision"], jax.lax.DotAlgorithm):
        return False
    contracting, batch = product.params["dimension_numbers"]
    factors: Sequence[Any] = product.invars
    first, second = (
        atom.aval.ndim - len(own) - len(shared)
        for atom, own, shared in zip(factors, contracting, batch, strict=True)
    )
    lead = len(batch[0])
    end = lead + first + second
    order = (*range(lead), *range(lead + first, end), *range(lead, lead + first))
    return tuple(permutation) == order


def _turned(product: Equation, env: Env) -> jax.Array:
    """Evaluate a product with its factors exchanged."""
    first, second = (_equations.read(env, atom) for atom in product.invars)
    contracting, batch = product.params["dimension_numbers"]
    precision = product.params["precision"]
    return jax.lax.dot_general(
        second,
        first,
        (contracting[::-1], batch[::-1]),
        precision=precision[::-1] if isinstance(precision, tuple) else precision,
        preferred_element_type=product.params["preferred_element_type"],
    )
