"""Units that are users: whose examples are whose, and some of them for each step."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import _check
from dpjax.sampling import streams
from dpjax.sampling.sampler import IndexChunk
from dpjax.types import ArrayTree, LossFn


class UserChunk(NamedTuple):
    """A part of one step's batch of users, with some examples of each.

    Attributes:
      users: int32, (chunk_size,): indices of users; 0 where padded.
      mask: bool, (chunk_size,): False where a whole row is padded.
      indices: int32, (chunk_size, k): positions of examples in the data set.
      example_mask: bool, (chunk_size, k): False where a user has fewer examples; such
        places repeat one of the user's own.
    """

    users: np.ndarray
    mask: np.ndarray
    indices: np.ndarray
    example_mask: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
    """The examples of each user; `group_by_user` makes it.

    A user is the unit of privacy then: a mechanism's `num_examples` is `num_users`, and
    its sampler, whichever it is, draws users. A user may be any group that has examples
    of its own: a person, a household, a task.

    Whose an example is has to be looked up: that takes 4 bytes an example and 8 a user
    (and their `ids`) for as long as it lives. What is drawn takes memory for the batch.

    Guarantee:
      With the gradients of whole rows clipped (`mean_loss` has one loss a row), and
      `num_examples=num_users`, the guarantee of a mechanism is about all examples of a
      user at once. The number of users and k are public; whose an example is, and how
      many a user has, is not. An example must belong to one user.

    Attributes:
      ids: (num_users,) ascending: what users are called in `user_ids`.
      order: int32, (num_examples,): positions of examples, a user's after another's.
      starts: (num_users + 1,): where each user's begin in `order`.
    """

    ids: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of users: the units of privacy."""
        return len(self.ids)

    def batches(
        self,
        steps: Iterable[list[IndexChunk]],
        key_data: np.ndarray,
        *,
        max_examples_per_user: int,
        start_step: int = 0,
    ) -> Iterator[list[UserChunk]]:
        """Yield the examples of each step's users: as many, or some at random.

        Args:
          steps: batches of users, such as `mechanism.batches(key, start_step)`.
          key_data: key words, uint32 of shape (2,); those of the mechanism will do.
          max_examples_per_user: k, the most examples that a user has in a step, >= 1.
            Of more, every step has k others at random, any as likely.
          start_step: number of the first of `steps`.

        Yields:
          A list of `UserChunk`, one for each chunk: a pure function of the key, the
          step's number and its users.
        """
        words = streams.checked_words(key_data)
        most = _most(max_examples_per_user)
        start = _check.integer("start_step", start_step, minimum=0)
        return (
            self._step(chunks, streams.stream(words, b"user examples", step), most)
            for step, chunks in enumerate(steps, start)
        )

    def blocks(
        self, data: ArrayTree, key_data: np.ndarray, *, max_examples_per_user: int
    ) -> tuple[ArrayTree, np.ndarray]:
        """Return data in rows of users, k examples each, chosen once at random.

        What a loop takes that knows of units only: `fit(mechanism, mean_loss(loss_fn),
        params, users.blocks(...))`.

        Args:
          data: pytree of arrays with leading axis (num_examples,).
          key_data: as in `batches`.
          max_examples_per_user: as in `batches`; examples beyond it are left out.

        Returns:
          Arrays with leading axes (num_users, k), and bool, (num_users, k): False where
          a user has fewer examples, and a row repeats one.
        """
        count = _check.leading_axis("data", data)
        if count != len(self.order):
            expected = f"data of the {len(self.order)} examples of user_ids"
            _check.fail(expected, "its leading axis", count)
        source = streams.stream(streams.checked_words(key_data), b"user blocks", 0)
        everybody = np.arange(self.num_users)
        indices, mask = self._rows(everybody, source, _most(max_examples_per_user))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[indices], data), mask

    def _step(
        self, chunks: list[IndexChunk], source: np.random.Philox, most: int
    ) -> list[UserChunk]:
        found = []
        for users, mask in chunks:
            indices = np.zeros((len(users), most), np.int32)
            example_mask = np.zeros((len(users), most), bool)
            rows = self._rows(users[mask], source, most)
            indices[mask], example_mask[mask] = rows
            found.append(UserChunk(users, mask, indices, example_mask))
        return found

    def _rows(
        self, users: np.ndarray, source: np.random.Philox, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples of `users`, and which places have one: (users, most)."""
        counts = self.starts[users + 1] - self.starts[users]
        places = np.minimum(np.arange(most), counts[:, None] - 1)
        for row in np.flatnonzero(counts > most):
            places[row] = streams.distinct(source, int(counts[row]), most)
        indices = self.order[self.starts[users][:, None] + places]
        return indices, np.arange(most) < counts[:, None]


def group_by_user(user_ids: Any) -> Users:
    """Return whose examples are whose.

    Args:
      user_ids: (num_examples,) the user of each example, as anything that sorts.

    Raises:
      ValueError: `user_ids` has no example, or more axes than one.

    >>> users = group_by_user(["ann", "bob", "ann", "cid"])
    >>> users.num_users, users.order.tolist(), users.starts.tolist()
    (3, [0, 2, 1, 3], [0, 2, 3, 4])
    """
    owners = np.asarray(user_ids)
    if owners.ndim != 1 or not owners.size:
        _check.fail("one user for each example", "user_ids.shape", owners.shape)
    ids, counts = np.unique(owners, return_counts=True)
    order = np.argsort(owners, kind="stable").astype(np.int32)
    return Users(ids, order, np.concatenate([[0], np.cumsum(counts)]))


def mean_loss(loss_fn: LossFn) -> Callable[..., jax.Array]:
    """Return the loss of a user: the mean of those of the user's examples.

    Args:
      loss_fn: `loss_fn(params, *example) -> scalar`.

    Returns:
      `loss(params, examples, mask) -> scalar`, of a tuple of pytrees with leading axis
      (k,), or a single pytree of such, and bool, (k,); 0 where no place has an example.
    """

    def of_user(params: Any, examples: Any, mask: jax.Array) -> jax.Array:
        batch = examples if type(examples) is tuple else (examples,)
        losses = jax.vmap(lambda *example: loss_fn(params, *example))(*batch)
        total = jnp.where(mask, losses, 0).sum()
        return total / jnp.maximum(mask.sum(), 1).astype(losses.dtype)

    return of_user


def _most(max_examples_per_user: Any) -> int:
    return _check.integer("max_examples_per_user", max_examples_per_user, minimum=1)
