"""The statement says what the run is, what holds for whom, and what is assumed."""

import pytest

from dpjax.accounting.commands import statement
from dpjax.accounting.commands.settings import Run


def run(**changes):
    settings = {
        "noise_multiplier": 1.5,
        "sampling_prob": 0.0064,
        "num_steps": 1560,
        "num_examples": 10_000,
        "batch_size": 64.0,
    }
    return Run(**settings | changes)


def text(lines):
    return " ".join(" ".join(lines).split())


def test_the_run_and_what_is_protected_are_named():
    found = text(statement.run_lines(run()))
    assert found == (
        "DP-SGD: 1,560 steps, noise multiplier 1.5, each example in a step with "
        "probability 0.0064 (10,000 examples, 64 a batch). The guarantee is for one "
        "example, added to the data or removed from it. It holds for all intermediate "
        "parameters together, not for the last alone."
    )


@pytest.mark.parametrize("missing", ["num_examples", "batch_size"])
def test_sizes_that_were_not_given_are_not_named(missing):
    found = text(statement.run_lines(run(**{missing: None})))
    assert "with probability 0.0064. The guarantee" in found


def test_both_bounds_are_rounded_up_and_stand_below_each_other():
    lines = statement.bound_lines(1.23451, 123456.0)
    assert [line.split()[-1] for line in lines] == ["1.235", "1.235e5"]
    assert len({len(line) for line in lines}) == 1
    assert "(*)" in lines[0]
    assert "(*)" not in lines[1]


def test_a_group_has_a_line_and_without_one_the_reader_is_told_how():
    found = statement.group_lines(1e-6, [(2, 2.5317), (10, 30.0)])
    assert found[0] == "Epsilon of a group at delta 1e-06:"
    assert [line.split()[-1] for line in found[1:3]] == ["2.532", "30.00"]
    assert "--group_size=K" in text(statement.group_lines(1e-6, []))


@pytest.mark.parametrize(
    ("delta", "size", "warned"),
    [
        (1e-4, 10_000, True),
        (1e-2, 10_000, True),
        (9.9e-5, 10_000, False),
        (0.5, None, False),
        (None, 10_000, False),
    ],
)
def test_a_delta_of_one_example_or_more_is_warned_of(delta, size, warned):
    found = text(statement.closing_lines(run(num_examples=size), delta))
    assert ("Warning: delta is not below 1 / " in found) == warned
    assert "no guarantee" in found


def test_no_line_is_longer_than_a_terminal():
    lines = [
        *statement.run_lines(run()),
        *statement.bound_lines(1.0, 2.0),
        *statement.group_lines(1e-6, [(2, 3.0)]),
        *statement.group_lines(1e-6, []),
        *statement.closing_lines(run(), 0.1),
    ]
    assert max(map(len, lines)) <= 79
