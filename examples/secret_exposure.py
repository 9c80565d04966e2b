"""Plant secrets among surnames, train on them, and ask how far they are memorised.

A small character model learns the commonest surnames of the US census. Among them are
secrets: strings of six letters drawn at random, some planted once, some many times. How
much more probable the model finds a secret than others of the same form that it has
never seen is the secret's exposure: 1.4 bits on average for one that was not planted,
log2 of the number of others for one that the model would give away first.

The private unit is a record, one name or one copy of a secret: with k copies, the
promise is that for k records. Data sets are neighbours if one has a record more. The
surnames are in the package `names` (`pip install names`).

References:
    Carlini, Liu, Erlingsson, Kos, Song, "The Secret Sharer: Evaluating and Testing
        Unintended Memorization in Neural Networks", USENIX Security 2019.
"""

import dataclasses
import importlib.util
import pathlib
import string

import jax
import jax.numpy as jnp
import numpy as np
import optax
import private_learners
from data_files import DataUnavailable
from jax import Array
from private_learners import Settings

import dpjax
from dpjax import auditing

DEFAULTS = Settings(epsilon=3.0, delta=1e-5, steps=600)
LETTERS, END, LENGTH = string.ascii_lowercase, 26, 12
CONTEXT, WIDTH, HIDDEN = 4, 16, 128
NUM_SURNAMES, NUM_REFERENCES, SECRET_LENGTH = 8_000, 16_384, 6
COPIES = (0, 1, 4, 16, 64)
SECRETS_EACH = 8
Params = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Words:
    """What is learnt and what is asked, as codes `(words, LENGTH)`.

    Attributes:
        names: Surnames.
        secrets: By number of copies, those that are planted so often.
        references: Others of the same form, in no training set.
    """

    names: np.ndarray
    secrets: dict[int, np.ndarray]
    references: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """Return the names, and every secret as often as it is planted."""
        planted = [np.repeat(own, copies, 0) for copies, own in self.secrets.items()]
        return np.concatenate([self.names, *planted])


def surnames(count: int) -> list[str]:
    """Return the commonest surnames that fit, in lower case, the commonest first.

    Raises:
        DataUnavailable: If the package `names` is not installed.
    """
    found = importlib.util.find_spec("names")
    if found is None or found.origin is None:
        raise DataUnavailable(
            "Expected the package names, got none: pip install names."
        )
    path = pathlib.Path(found.origin).with_name("dist.all.last")
    words = [line.split()[0].lower() for line in path.read_text().splitlines()]
    return [word for word in words if len(word) < LENGTH][:count]


def encode(words: list[str]) -> np.ndarray:
    """Return words as codes `(words, LENGTH)`, filled up by END."""
    rows = [[LETTERS.index(letter) for letter in word] for word in words]
    return np.array([row + [END] * (LENGTH - len(row)) for row in rows], np.int32)


def make_words(settings: Settings, names: list[str]) -> Words:
    """Return surnames with secrets planted among them, drawn from the settings' key."""
    count = len(COPIES) * SECRETS_EACH
    shape = (count + NUM_REFERENCES, SECRET_LENGTH)
    drawn = np.asarray(jax.random.randint(settings.key("secrets"), shape, 0, END))
    ends = np.full((len(drawn), LENGTH - SECRET_LENGTH), END)
    codes = np.concatenate([drawn, ends], 1).astype(np.int32)
    by_copies = np.split(codes[:count], len(COPIES))
    secrets = dict(zip(COPIES, by_copies, strict=True))
    return Words(encode(names), secrets, codes[count:])


def initial(key: Array) -> Params:
    """Return the weights of a network that sees the last letters."""
    first, second, third = jax.random.split(key, 3)
    fan_in = CONTEXT * WIDTH
    return {
        "letters": jax.random.normal(first, (END + 1, WIDTH)),
        "hidden": jax.random.normal(second, (fan_in, HIDDEN)) / fan_in**0.5,
        "hidden_bias": jnp.zeros(HIDDEN),
        "next": jax.random.normal(third, (HIDDEN, END + 1)) / HIDDEN**0.5,
        "next_bias": jnp.zeros(END + 1),
    }


def loss(params: Params, word: Array) -> Array:
    """Return -log of the probability of ONE word, in nats: letters, and its end."""
    before = jnp.concatenate([jnp.full(CONTEXT, END, word.dtype), word[:-1]])
    places = jnp.arange(LENGTH)[:, None] + jnp.arange(CONTEXT)
    seen = params["letters"][before[places]].reshape(LENGTH, -1)
    hidden = jnp.tanh(seen @ params["hidden"] + params["hidden_bias"])
    logits = hidden @ params["next"] + params["next_bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, word)
    # After the first END there is nothing to tell.
    told = jnp.concatenate([jnp.ones(1, bool), word[:-1] != END])
    return jnp.sum(jnp.where(told, losses, 0))


@jax.jit
def losses(params: Params, words: Array) -> Array:
    """Return the loss of each word."""
    return jax.vmap(loss, (None, 0))(params, words)


def exposures(params: Params, words: Words) -> dict[int, float]:
    """Return the mean exposure in bits of secrets, by how often they are planted."""
    references = np.asarray(losses(params, words.references))
    return {
        copies: float(
            auditing.exposure(np.asarray(losses(params, own)), references).mean()
        )
        for copies, own in words.secrets.items()
    }


def learn(
    settings: Settings, words: Words, batch_size: float = 512.0
) -> tuple[dpjax.DPSGD, dict[str, dict[str, float]]]:
    """Return the mechanism, and what each way of training learnt and gives away."""
    records = words.train
    mechanism = settings.mechanism(len(records), batch_size, l2_norm_clip=1.0)
    ways: dict[str, dpjax.DPSGD | dpjax.NonPrivate] = {
        "without privacy": private_learners.without_privacy(mechanism),
        "private": mechanism,
    }
    start = initial(settings.key("init"))
    found = {"before": _row(start, words)}
    for way, chosen in ways.items():
        learnt = private_learners.train(
            chosen, loss, start, records, optax.adam(0.01), settings.seed
        )
        found[way] = _row(learnt, words)
    return mechanism, found


def _row(params: Params, words: Words) -> dict[str, float]:
    of_names = losses(params, words.names)
    bits = {f"{k} copies": value for k, value in exposures(params, words).items()}
    return {"nats a name": float(jnp.mean(of_names)), **bits}


def describe(settings: Settings) -> str:
    """Learn, and say what is given away and at what cost."""
    words = make_words(settings, surnames(NUM_SURNAMES))
    mechanism, found = learn(settings, words)
    columns = ["exposure in bits", *found["before"]]
    rows = {way: list(numbers.values()) for way, numbers in found.items()}
    return "\n\n".join(
        [
            private_learners.table(columns, rows),
            f"Means of {SECRETS_EACH} secrets each, among {NUM_REFERENCES:,} others: "
            f"at most {np.log2(NUM_REFERENCES):.1f} bits.",
            private_learners.guarantee(mechanism, settings.delta, "record"),
        ]
    )


if __name__ == "__main__":
    private_learners.start(describe, DEFAULTS)
