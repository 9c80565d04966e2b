"""What train.py minimises, and what it measures on the test set."""

from collections.abc import Callable
from typing import Any

import augment
import data
import jax
import jax.numpy as jnp
import optax


def make_loss(
    apply: Callable[..., jax.Array], augmentations: int, *, flip: bool
) -> tuple[Callable[..., jax.Array], int | None]:
    """Return the loss of one example, and the position of its key if it takes one."""

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def augmented_loss(
        params: Any, x: jax.Array, y: jax.Array, key: jax.Array
    ) -> jax.Array:
        views = augment.views(key, x, augmentations, flip=flip)
        return jax.vmap(loss, (None, 0, None))(params, views, y).mean()

    return (augmented_loss, 3) if augmentations else (loss, None)


def make_evaluation(
    apply: Callable[..., jax.Array], dataset: data.Dataset
) -> Callable[[Any], dict[str, jax.Array]]:
    """Return a function of the parameters: loss and accuracy on the test set."""
    test_x, test_y = jnp.asarray(dataset.test_x), jnp.asarray(dataset.test_y)

    @jax.jit
    def evaluate(params: Any) -> dict[str, jax.Array]:
        logits = jax.lax.map(lambda x: apply(params, x), test_x, batch_size=1000)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, test_y)
        right = jnp.argmax(logits, -1) == test_y
        return {"test_loss": losses.mean(), "test_accuracy": right.mean()}

    return evaluate
