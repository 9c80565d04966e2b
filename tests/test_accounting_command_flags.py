"""The flags of the command line: each command gets what it needs, and nothing else."""

import math

import pytest
from absl import flags

from dpjax.accounting.commands import options

RUN = ("--noise_multiplier=1", "--sampling_prob=0.01", "--num_steps=1000")
EPSILON = (*RUN, "--delta=1e-5")


def read(command, *arguments):
    flag_values = flags.FlagValues()
    options.define(flag_values)
    flag_values(["accounting", *arguments])
    return options.read(command, flag_values)


def test_the_run_is_read_off_the_flags():
    settings = read("epsilon", *EPSILON, "--group_size=4", "--group_size=2")
    run = settings.run
    assert (run.noise_multiplier, run.sampling_prob, run.num_steps) == (1, 0.01, 1000)
    assert (settings.delta, settings.epsilon) == (1e-5, None)
    assert (settings.accountant, settings.group_sizes) == ("exact", (2, 4))


@pytest.mark.parametrize(
    ("arguments", "rate", "steps"),
    [
        (["--num_examples=10000", "--batch_size=64", "--num_epochs=5"], 0.0064, 782),
        (["--num_examples=1e4", "--batch_size=64", "--num_steps=782"], 0.0064, 782),
        (["--num_examples=100", "--batch_size=2.5", "--num_steps=0"], 0.025, 0),
        (["--sampling_prob=0.01", "--num_epochs=7"], 0.01, 700),
        (["--sampling_prob=1", "--num_epochs=0.5"], 1.0, 1),
        (["--sampling_prob=1e-12", "--num_steps=1e9"], 1e-12, 10**9),
    ],
)
def test_sampling_and_length_can_be_said_in_two_ways(arguments, rate, steps):
    run = read("epsilon", "--noise_multiplier=1", "--delta=1e-5", *arguments).run
    assert (run.sampling_prob, run.num_steps) == (pytest.approx(rate), steps)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("delta", [*RUN, "--epsilon=1"]),
        ("noise", [*RUN[1:], "--epsilon=1", "--delta=1e-5"]),
        ("steps", [*RUN[:2], "--epsilon=1", "--delta=1e-5"]),
        ("curve", EPSILON),
        ("compare", EPSILON),
    ],
)
def test_what_is_solved_for_stays_open(command, arguments):
    settings = read(command, *arguments)
    run = settings.run
    values = [run.noise_multiplier, run.num_steps, settings.delta, settings.epsilon]
    assert values.count(None) == 1
    assert run.sampling_prob == 0.01


@pytest.mark.parametrize(
    ("command", "arguments", "complaint"),
    [
        ("epsilon", RUN, "--delta, got none"),
        ("epsilon", EPSILON[1:], "--noise_multiplier, got none"),
        ("epsilon", [*EPSILON, "--epsilon=1"], "no --epsilon with this command"),
        ("epsilon", [*EPSILON, "--num_epochs=1"], "either --num_steps or --num_epochs"),
        ("epsilon", [*EPSILON[:2], "--delta=1e-5"], "got neither"),
        ("noise", [*EPSILON, "--epsilon=1"], "no --noise_multiplier with"),
        ("steps", [*EPSILON, "--epsilon=1"], "no --num_steps with"),
        ("delta", [*EPSILON, "--epsilon=1"], "no --delta with"),
        ("epsilon", [*EPSILON, "--num_examples=9"], "either --sampling_prob, or"),
        ("epsilon", [*EPSILON, "--batch_size=9"], "either --sampling_prob, or"),
        ("epsilon", [EPSILON[0], *EPSILON[2:]], "either --sampling_prob, or"),
        (
            "epsilon",
            [EPSILON[0], *EPSILON[2:], "--num_examples=9"],
            "either --sampling_prob, or",
        ),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(command, arguments, complaint):
    with pytest.raises(options.CommandError, match=complaint):
        read(command, *arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", -1),
        ("noise_multiplier", math.inf),
        ("sampling_prob", 0),
        ("sampling_prob", 1.1),
        ("num_steps", -1),
        ("delta", 0),
        ("delta", 1),
        ("delta", math.nan),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_flag(name, value):
    others = [text for text in EPSILON if not text.startswith(f"--{name}=")]
    with pytest.raises(ValueError, match=f"got --{name}="):
        read("epsilon", *others, f"--{name}={value}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num_examples=10", "--batch_size=20"],
        ["--num_examples=0", "--batch_size=20"],
        ["--num_examples=10", "--batch_size=0"],
        ["--sampling_prob=1e-300", "--num_epochs=1"],
    ],
)
def test_sizes_out_of_range_are_refused(arguments):
    length = [] if "--num_epochs=1" in arguments else ["--num_steps=1"]
    with pytest.raises(ValueError, match="Expected"):
        read("epsilon", "--noise_multiplier=1", "--delta=1e-5", *length, *arguments)


@pytest.mark.parametrize("text", ["1.5", "x", "nan", "inf", "1e19", "1e999999999", ""])
def test_a_number_of_steps_is_whole(text):
    with pytest.raises(flags.IllegalFlagValueError, match="whole number"):
        read("epsilon", *EPSILON[:2], "--delta=1e-5", f"--num_steps={text}")
