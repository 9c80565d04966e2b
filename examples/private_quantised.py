"""Train a network of rounded weights and activations privately on real digits.

Every weight, bias and hidden activation is -1, 0 or 1. Rounding has slope zero, so that
nothing is learnt through it; `dpjax.straight_through` rounds on the way forward and
lets gradients pass as if it had not. They change weights that are kept unrounded beside
the network, are clipped digit by digit, and noised. Rounding what was learnt privately
is free: it touches no data.

The private unit is a digit, one image with its label. Data sets are neighbours if one
has a digit more. The scale of the pixels and the test digits are public.

References:
    Bengio, Leonard, Courville 2013, arXiv 1308.3432: the straight-through estimator.
    Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, "Binarized Neural Networks", NeurIPS
        2016: the weights that are kept unrounded.
    Li, Zhang, Liu, "Ternary Weight Networks", 2016, arXiv 1605.04711.
"""

from collections.abc import Callable

import data
import jax
import jax.numpy as jnp
import optax
import private_learners
from jax import Array
from patch_conv import mean_pool
from private_learners import Settings

import dpjax

PIXELS, HIDDEN, CLASSES = 14 * 14, 64, 10
DEFAULTS = Settings(epsilon=3.0, delta=1e-4, steps=100)
Rounding = Callable[[Array], Array]
Params = list[dict[str, Array]]


def ternary(x: Array) -> Array:
    """Round to -1, 0 or 1."""
    return jnp.clip(jnp.round(x), -1, 1)


ROUNDINGS: dict[str, Rounding] = {
    "straight through": dpjax.straight_through(ternary),
    "plain rounding": ternary,
}


def initial(key: Array) -> Params:
    """Return unrounded weights, uniform in [-1, 1], and biases of 0."""
    sizes = ((PIXELS, HIDDEN), (HIDDEN, CLASSES))
    return [
        {
            "weights": jax.random.uniform(part, shape, minval=-1.0),
            "bias": jnp.zeros(shape[1]),
        }
        for part, shape in zip(jax.random.split(key), sizes, strict=True)
    ]


def logits(rounding: Rounding, params: Params, images: Array) -> Array:
    """Map images `(..., 28, 28, 1)` to logits `(..., 10)`, through rounded numbers.

    Sums are divided by the square root of their length, which is a public constant.
    """
    hidden, last = jax.tree.map(rounding, params)
    pixels = mean_pool(3 * images - 0.75).reshape(*images.shape[:-3], PIXELS)
    sums = pixels @ hidden["weights"] / PIXELS**0.5 + hidden["bias"]
    activations = rounding(jnp.tanh(sums))
    return activations @ last["weights"] / HIDDEN**0.5 + last["bias"]


def make_loss(rounding: Rounding) -> Callable[[Params, Array, Array], Array]:
    """Return the cross-entropy of ONE digit under a rounding."""

    def loss(params: Params, image: Array, label: Array) -> Array:
        found = logits(rounding, params, image)
        return optax.softmax_cross_entropy_with_integer_labels(found, label)

    return loss


def accuracy(params: Params, digits: data.Dataset) -> float:
    """Return the share of test digits that the rounded network tells rightly."""
    found = jnp.argmax(logits(ternary, params, digits.test_x), axis=-1)
    return float(jnp.mean(found == digits.test_y))


def learn(
    settings: Settings, digits: data.Dataset
) -> tuple[dpjax.DPSGD, dict[str, dict[str, float]]]:
    """Return the mechanism, and test accuracies by rounding and by way of training."""
    count = len(digits.train_y)
    mechanism = settings.mechanism(count, count / 4, l2_norm_clip=1.0)
    ways: dict[str, dpjax.DPSGD | dpjax.NonPrivate] = {
        "without privacy": private_learners.without_privacy(mechanism),
        "private": mechanism,
    }
    start = initial(settings.key("init"))
    found = {}
    for name, rounding in ROUNDINGS.items():
        found[name] = {"before": accuracy(start, digits)}
        for way, chosen in ways.items():
            learnt = private_learners.train(
                chosen,
                make_loss(rounding),
                start,
                (digits.train_x, digits.train_y),
                optax.adam(0.05),
                settings.seed,
                ema_decay=0.9,
                microbatch_size=32,
            )
            found[name][way] = accuracy(learnt, digits)
    return mechanism, found


def describe(settings: Settings) -> str:
    """Learn, and say how well and at what cost."""
    mechanism, found = learn(settings, data.load("mnist_5k"))
    columns = ["test accuracy", *found["straight through"]]
    rows = {name: list(accuracies.values()) for name, accuracies in found.items()}
    return "\n\n".join(
        [
            private_learners.table(columns, rows),
            private_learners.guarantee(mechanism, settings.delta, "digit"),
        ]
    )


if __name__ == "__main__":
    private_learners.start(describe, DEFAULTS)
