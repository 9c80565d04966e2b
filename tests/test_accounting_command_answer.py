"""A command's answer describes the run as programs want it."""

import json

import pytest

from dpjax.accounting import command_answer
from dpjax.accounting.command_run import Run


def test_a_run_becomes_an_object_with_what_is_assumed():
    run = Run(noise_multiplier=1.0, sampling_prob=0.01, num_steps=1000)
    found = json.loads(json.dumps(command_answer.described(run)))
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
    assert command_answer.given(0.0) == 0.0
    with pytest.raises(AssertionError):
        command_answer.given(None)
