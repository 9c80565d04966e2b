"""Hashes of trees, data sets and programs, by which a run knows itself again."""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dpjax.sampling import streams
from dpjax.types import ArrayTree

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_BLOCK_BYTES = 1 << 24
_ROWS = 64

SAMPLED = 1024
"""How many examples of a data set on the disk are hashed."""


def host_leaves(tree: ArrayTree) -> dict[str, np.ndarray]:
    """Return the leaves of `tree` as NumPy arrays by name (typed keys: their words)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _to_host(leaf) for path, leaf in leaves}


def _to_host(leaf: Any) -> np.ndarray:
    is_array = isinstance(leaf, jax.Array)
    if is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def leaf_table(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    """Return, for each leaf, its dtype and shape, such as "float32[3,4]"."""
    return {name: _describe(leaf) for name, leaf in leaves.items()}


def _describe(leaf: np.ndarray) -> str:
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"


def tree_digest(tree: ArrayTree) -> str:
    """Return the sha256 of all leaves: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    feed(digest, host_leaves(tree))
    return digest.hexdigest()


def data_digest(data: ArrayTree, key_words: jax.Array) -> str:
    """Return a keyed hash of a data set.

    The run's key makes the hash useless to anyone who does not hold it: a bare hash in
    a run folder would let a reader test guesses of the private data.
    """
    digest = hmac.new(np.asarray(key_words).tobytes(), digestmod="sha256")
    feed(digest, host_leaves(data))
    return digest.hexdigest()


def sampled_digest(
    rows: Callable[[np.ndarray], ArrayTree],
    num_examples: int,
    described: Sequence[str],
    key_words: jax.Array,
) -> str:
    """Return a keyed hash of a data set that is too large to be read.

    It covers how many examples there are, what is said of them, and `SAMPLED` examples
    (all, of fewer), which the key draws. A change of one of them, or of what is said,
    is noticed. Others are not: a change of a share f of the examples goes unnoticed
    with probability (1 - f)^SAMPLED, which is 3e-5 for a hundredth of them; one of a
    single example of very many most likely does.

    Args:
      rows: from indices `(n,)` to a pytree of arrays `(n, ...)`.
      num_examples: how many there are.
      described: what is said of them: shapes, dtypes, a name or version.
      key_words: uint32, `(2,)`.
    """
    words = np.asarray(key_words)
    digest = hmac.new(words.tobytes(), digestmod="sha256")
    lines = [str(num_examples), *(_ADDRESS.sub("", line) for line in described)]
    digest.update("\0".join(lines).encode())
    source = streams.stream(words, b"fingerprint", 0)
    drawn = streams.distinct(source, num_examples, min(num_examples, SAMPLED))
    for start in range(0, len(drawn), _ROWS):
        feed(digest, host_leaves(rows(drawn[start : start + _ROWS])))
    return digest.hexdigest()


def feed(digest: Any, leaves: dict[str, np.ndarray]) -> None:
    """Update `digest` with names, dtypes, shapes and bytes, a block at a time."""
    for name, leaf in leaves.items():
        digest.update(f"{name}:{_describe(leaf)};".encode())
        rows = leaf.reshape(1) if leaf.ndim == 0 else leaf
        step = max(1, _BLOCK_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            digest.update(np.ascontiguousarray(rows[start : start + step]).tobytes())


def program_digest(fun: Callable[..., Any], *arguments: Any) -> str:
    """Return the sha256 of what JAX traces from `fun(*arguments)`.

    It covers the equations and the arrays that `fun` closes over, within functions
    that it calls too, so a changed layer, loss or learning rate gives another digest.
    It is stable between processes, not between versions of JAX.
    """
    closed = jax.make_jaxpr(fun)(*arguments)
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for program, consts in enumerate(_constants(closed)):
        named = {f"{program}.{i}": _to_host(const) for i, const in enumerate(consts)}
        feed(digest, named)
    return digest.hexdigest()


def _constants(closed: core.ClosedJaxpr) -> Iterator[Sequence[Any]]:
    """Yield the constants of a program, and of those inside of it."""
    yield closed.consts
    for eqn in closed.jaxpr.eqns:
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_program):
            if isinstance(inner, core.ClosedJaxpr):
                yield from _constants(inner)
            elif isinstance(inner, core.Jaxpr):
                yield from _constants(core.ClosedJaxpr(inner, ()))


def _is_program(node: Any) -> bool:
    return isinstance(node, core.ClosedJaxpr | core.Jaxpr)
