"""examples/secret_exposure.py: what a private run gives away of planted secrets."""

import dataclasses
import string

import data_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import secret_exposure
from secret_exposure import COPIES, END, LENGTH, SECRETS_EACH, Settings

SMALL = Settings(epsilon=3.0, delta=1e-5, steps=20, seed=0)


def some_names(count=200):
    random = np.random.default_rng(0)
    return ["".join(random.choice(list("abcde"), 5)) for _ in range(count)]


@pytest.fixture(scope="module")
def words():
    return secret_exposure.make_words(SMALL, some_names())


@pytest.fixture(scope="module")
def params():
    return secret_exposure.initial(jax.random.key(0))


def test_words_are_told_letter_by_letter_to_their_end():
    codes = secret_exposure.encode(["ab", string.ascii_lowercase[:LENGTH]])
    assert codes[0].tolist() == [0, 1] + [END] * (LENGTH - 2)
    assert codes[1].tolist() == list(range(LENGTH))


def test_secrets_are_planted_as_often_as_is_said(words):
    assert len(words.train) == 200 + SECRETS_EACH * sum(COPIES)
    rows = [tuple(row) for row in words.train]
    for copies, own in words.secrets.items():
        assert len(own) == SECRETS_EACH
        assert [rows.count(tuple(secret)) for secret in own] == [copies] * SECRETS_EACH
    secrets = {tuple(row) for own in words.secrets.values() for row in own}
    assert not secrets & {tuple(row) for row in words.references}


def test_seed_draws_the_secrets(words):
    again = secret_exposure.make_words(SMALL, some_names())
    other = secret_exposure.make_words(dataclasses.replace(SMALL, seed=1), some_names())
    np.testing.assert_array_equal(again.references, words.references)
    assert (other.references != words.references).any()


def test_probabilities_of_all_words_of_a_length_and_their_prefixes_add_up(params):
    # One letter and its end, or the end at once, or one letter and no end after it.
    none = secret_exposure.encode([""])
    one = secret_exposure.encode(list(string.ascii_lowercase))
    of_none, of_one = (jnp.exp(-secret_exposure.losses(params, w)) for w in (none, one))
    assert 0 < of_none[0] < 1
    first_letters = 1 - of_none[0]
    assert 0 < of_one.sum() < first_letters


def test_loss_sees_the_last_letters_alone(params):
    loss = secret_exposure.loss
    abcdefg, xbcdefg, abcdef, xbcdef = secret_exposure.encode(
        ["abcdefg", "xbcdefg", "abcdef", "xbcdef"]
    )
    # After "cdef", a first letter is forgotten: "g" and the end cost the same.
    ends = loss(params, abcdef) - loss(params, xbcdef)
    longer = loss(params, abcdefg) - loss(params, xbcdefg)
    np.testing.assert_allclose(ends, longer, atol=1e-4)


def test_secrets_that_were_never_seen_have_the_exposure_of_chance(params, words):
    found = secret_exposure.exposures(params, words)
    assert found.keys() == set(COPIES)
    # Exponential with mean 1 / ln 2, of 8: five standard errors.
    for value in found.values():
        assert abs(value - 1 / np.log(2)) < 5 / np.log(2) / np.sqrt(SECRETS_EACH)


@pytest.mark.slow
def test_a_run_learns_the_names_and_a_private_one_hides_the_secrets(words):
    settings = dataclasses.replace(SMALL, steps=150)
    mechanism, found = secret_exposure.learn(settings, words, batch_size=128.0)
    assert mechanism.epsilon(1e-5) <= 3.0
    plain, private = found["without privacy"], found["private"]
    assert plain["nats a name"] < found["before"]["nats a name"] - 5
    assert plain["16 copies"] > 12
    assert private["4 copies"] < plain["4 copies"] - 3


def test_surnames_are_the_commonest_that_fit():
    pytest.importorskip("names", reason="holds the surnames")
    found = secret_exposure.surnames(1000)
    assert found[:2] == ["smith", "johnson"]
    assert len(found) == 1000
    assert max(map(len, found)) < LENGTH


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(data_files.DataUnavailable, match="pip install names"):
        secret_exposure.surnames(10)
