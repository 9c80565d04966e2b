"""A command's answer describes the run as programs want it."""

import json

import pytest

from dpjax.accounting.commands import answer
from dpjax.accounting.commands.settings import Run


def test_a_run_becomes_an_object_with_what_is_assumed():
    run = Run(noise_multiplier=1.0, sampling_prob=0.01, num_steps=1000)
    found = json.loads(json.dumps(answer.described(run)))
    assert found == {
        "noise_multiplier": 1.0,
        "sampling_prob": 0.01,
        "num_steps": 1000,
        "num_examples": None,
        "batch_size": None,
        "neighbours": "add or remove one example",
        "sampling": "Poisson",
    }


def test_what_the_flags_made_sure_of_is_given():
    assert answer.given(0.0) == 0.0
    with pytest.raises(AssertionError):
        answer.given(None)
