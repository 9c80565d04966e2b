"""Search for a learning rate and a clip norm privately, with an honest epsilon.

Twelve settings of a logistic regression on real digits. Trying them all and reporting
the epsilon of the run that won is common, and wrong: which run won tells of the data.
Here the number of runs is drawn at random and kept secret, every run takes a setting at
random, and only the best run is seen. What that costs together is known, and printed
beside the number that does not count.

The private unit is a digit, one image with its label. Data sets are neighbours if one
has a digit more. Scores are accuracies on digits that are public, so that a score costs
nothing beyond the run that it is of. (On private digits it would need noise, as
`dpjax.release.private_mean` adds it, and that event composed with the training's.) The
scale of the pixels is public too; other public digits measure the winner.

References:
    Papernot, Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR
        2022, arXiv 2110.03620.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import private_learners
from jax import Array
from patch_conv import mean_pool
from private_learners import Settings

import dpjax
from dpjax.accounting.selection import Repetitions, selection_epsilon
from dpjax.release.search import SearchResult, private_search

PIXELS, CLASSES = 14 * 14, 10
LEARNING_RATES = (0.1, 0.5, 2.0, 8.0)
CLIP_NORMS = (0.1, 1.0, 10.0)
RUNS = Repetitions(mean=8.0, shape=0.5)
DEFAULTS = Settings(epsilon=1.0, delta=1e-4, steps=60)
Params = dict[str, Array]


class Candidate(NamedTuple):
    """What is searched for; neither changes what a run costs.

    Attributes:
        learning_rate: Of SGD.
        l2_norm_clip: To which each digit's gradient is clipped.
    """

    learning_rate: float
    l2_norm_clip: float


CANDIDATES = [
    Candidate(*pair) for pair in itertools.product(LEARNING_RATES, CLIP_NORMS)
]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the search releases, and what it cost.

    Attributes:
        best: The winning run.
        test_accuracy: Its share of right answers on public digits of their own.
        honest: Epsilon of the search.
        dishonest: Epsilon of the winning run, as if there had been no other.
    """

    best: SearchResult
    test_accuracy: float
    honest: float
    dishonest: float


def logits(params: Params, images: Array) -> Array:
    """Map images `(..., 28, 28, 1)` to logits `(..., 10)`."""
    pixels = mean_pool(3 * images - 0.75).reshape(*images.shape[:-3], PIXELS)
    return pixels @ params["weights"] / PIXELS**0.5 + params["bias"]


def loss(params: Params, image: Array, label: Array) -> Array:
    """Return the cross-entropy of ONE digit."""
    found = logits(params, image)
    return optax.softmax_cross_entropy_with_integer_labels(found, label)


def accuracy(params: Params, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of digits that are told rightly."""
    return float(jnp.mean(jnp.argmax(logits(params, images), axis=-1) == labels))


def search(
    settings: Settings, digits: data.Dataset, runs: Repetitions = RUNS
) -> tuple[dpjax.DPSGD, Found]:
    """Return the mechanism of one run, and what the search found."""
    count = len(digits.train_y)
    mechanism = settings.mechanism(count, count / 4, l2_norm_clip=1.0)
    public, others = ((digits.test_x[i::2], digits.test_y[i::2]) for i in (0, 1))

    def train(candidate: Candidate, key: Array) -> tuple[float, Params]:
        params = private_learners.train(
            dataclasses.replace(mechanism, l2_norm_clip=candidate.l2_norm_clip),
            loss,
            {"weights": jnp.zeros((PIXELS, CLASSES)), "bias": jnp.zeros(CLASSES)},
            (digits.train_x, digits.train_y),
            optax.sgd(candidate.learning_rate / candidate.l2_norm_clip),
            key,
            microbatch_size=128,
        )
        return accuracy(params, *public), params

    event = mechanism.event()
    best = private_search(
        train,
        CANDIDATES,
        event=event,
        distribution=runs,
        key=jax.random.key_data(settings.key("search")),
    )
    return mechanism, Found(
        best,
        accuracy(best.output, *others),
        selection_epsilon(event, settings.delta, repetitions=runs),
        mechanism.epsilon(settings.delta),
    )


def describe(settings: Settings) -> str:
    """Search, and say what was found and at what cost."""
    mechanism, found = search(settings, data.load("mnist_5k"))
    learning_rate, clip_norm = found.best.candidate
    honest = math.ceil(1e4 * found.honest) / 1e4  # Never less than it is.
    dishonest = math.ceil(1e4 * found.dishonest) / 1e4
    return (
        f"best of a secret number of runs: learning rate {learning_rate:g} over clip "
        f"norm {clip_norm:g};\naccuracy {found.best.score:.3f} on the public digits "
        f"that chose it, {found.test_accuracy:.3f} on others\n\n"
        f"honest epsilon      {honest:.4f}   of the search: {RUNS.mean:g} runs on "
        f"average, shape {RUNS.shape:g}\n"
        f"dishonest epsilon   {dishonest:.4f}   of the winning run, as if there had "
        f"been no other\n\nBoth at delta {settings.delta:g}, for each digit "
        "(neighbours: add or remove one). The honest one is a\nguarantee as long as "
        "nothing else gets out: no log of the other runs, not how many\nthere were, "
        "and not the key. Noise multiplier of each run "
        f"{mechanism.noise_multiplier:.3f}, {mechanism.num_steps} steps,\neach digit "
        f"in a batch with probability {mechanism.sampling_prob:.3g}."
    )


if __name__ == "__main__":
    private_learners.start(describe, DEFAULTS)
