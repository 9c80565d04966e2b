"""What each command says: the library's numbers, and what they stand on."""

import dataclasses
import json
import math
import re

import pytest

from dpjax import accounting
from dpjax.accounting import group
from dpjax.accounting.commands import catalogue
from dpjax.accounting.commands.settings import UNAMPLIFIED, Run, Settings

RUN = Run(
    noise_multiplier=1.0,
    sampling_prob=0.01,
    num_steps=1000,
    num_examples=10_000,
    batch_size=100.0,
)


def settings(
    delta=1e-5, epsilon=None, accountant="exact", points=3, group_sizes=(), **solved
):
    run = Run(**{**vars(RUN), **solved})
    return Settings(
        run=run,
        delta=delta,
        epsilon=epsilon,
        accountant=accountant,
        points=points,
        group_sizes=group_sizes,
    )


def epsilon_of(run, accountant="exact"):
    return accounting.event_epsilon(run.event(), 1e-5, accountant=accountant)


@pytest.mark.parametrize("accountant", ["exact", "rdp"])
def test_epsilon_is_the_librarys_with_and_without_amplification(accountant):
    answer = catalogue.epsilon(settings(accountant=accountant))
    assert answer.data["epsilon"] == epsilon_of(RUN, accountant)
    unamplified = accounting.event_epsilon(
        RUN.unamplified(), 1e-5, accountant=accountant, relation=UNAMPLIFIED
    )
    assert answer.data["unamplified"]["epsilon"] == unamplified
    text = "\n".join(answer.lines)
    shown = [float(found) for found in re.findall(r"  (\d+\.\d+)$", text, re.MULTILINE)]
    assert len(shown) == 2
    bounds = answer.data["epsilon"], answer.data["unamplified"]["epsilon"]
    for number, bound in zip(shown, bounds, strict=True):
        assert bound <= number <= bound + 0.01


def test_the_statement_says_what_is_protected_and_what_is_assumed():
    text = " ".join(" ".join(catalogue.epsilon(settings()).lines).split())
    for words in (
        "1,000 steps, noise multiplier 1.0",
        "10,000 examples, 100 a batch",
        "one example, added to the data or removed from it",
        "if every batch is drawn by Poisson sampling (*)",
        "if batches are shuffled or fixed: no amplification",
        "a number marked (*) is then no guarantee",
    ):
        assert words in text
    assert "Warning" not in text


def test_groups_of_examples_have_their_own_numbers():
    answer = catalogue.epsilon(
        settings(delta=1e-6, group_sizes=(2, 3), noise_multiplier=4.0, num_steps=100)
    )
    run = dataclasses.replace(RUN, noise_multiplier=4.0, num_steps=100)
    sizes = [entry["size"] for entry in answer.data["groups"]]
    bounds = [entry["epsilon"] for entry in answer.data["groups"]]
    assert sizes == [2, 3]
    expected = [
        accounting.event_epsilon(group.group_event(run.event(), size), 1e-6)
        for size in sizes
    ]
    assert bounds == expected
    assert answer.data["epsilon"] < bounds[0] < bounds[1]
    shown = [line for line in answer.lines if "examples of one person (*)" in line]
    assert [line.split()[1] for line in shown] == ["2", "3"]


@pytest.mark.parametrize("delta", [1e-6, 1e-2])
def test_a_group_has_the_lower_of_two_renyi_bounds(delta):
    answer = catalogue.epsilon(
        settings(delta=delta, group_sizes=(2,), accountant="rdp", num_steps=10)
    )
    (found,) = answer.data["groups"]
    event = dataclasses.replace(RUN, num_steps=10).event()
    converted = group.vadhan_epsilon(event, delta, 2, accountant="rdp")
    grouped = accounting.event_epsilon(
        group.group_event(event, 2), delta, accountant="rdp"
    )
    assert found["epsilon"] == min(converted, grouped)
    assert (found["size"], found["method"]) == (2, "rdp")


def test_a_group_has_a_number_where_only_conversion_gives_one(monkeypatch):
    def refuse(event, size):
        raise accounting.AccountingError("no account")

    monkeypatch.setattr(group, "group_event", refuse)
    answer = catalogue.epsilon(settings(group_sizes=(2,), num_steps=10))
    (found,) = answer.data["groups"]
    event = dataclasses.replace(RUN, num_steps=10).event()
    assert found["epsilon"] == group.vadhan_epsilon(event, 1e-5, 2)


def test_the_statement_has_the_numbers_of_tf_privacys():
    # compute_dp_sgd_privacy_statement(10_000, 64, 5, 2, 1e-6) with microbatches, which
    # double the sensitivity: 12.595 once an epoch, 1.199 with Poisson sampling.
    answer = catalogue.epsilon(
        settings(delta=1e-6, sampling_prob=0.0064, num_steps=782, batch_size=64.0)
    )
    assert answer.data["unamplified"]["epsilon"] == pytest.approx(12.595, abs=5e-4)
    assert answer.data["epsilon"] == pytest.approx(1.199, abs=5e-4)


def test_a_delta_that_allows_to_publish_an_example_is_warned_of():
    text = "\n".join(catalogue.epsilon(settings(delta=1e-4)).lines)
    assert "Warning: delta is not below 1 / 10,000" in text


def test_the_noise_meets_the_target():
    answer = catalogue.noise(settings(epsilon=1.0, noise_multiplier=None))
    noise = answer.data["noise_multiplier"]
    expected = accounting.calibrate_noise_multiplier(
        target_epsilon=1.0, delta=1e-5, sampling_prob=0.01, num_steps=1000
    )
    assert noise == expected
    assert answer.lines[0].startswith(f"noise multiplier {noise!r}: the least for")
    assert answer.data["epsilon"] <= answer.data["target_epsilon"] == 1.0


def test_the_steps_meet_the_target():
    answer = catalogue.steps(settings(epsilon=1.0, accountant="rdp", num_steps=None))
    expected = accounting.calibrate_num_steps(
        target_epsilon=1.0,
        delta=1e-5,
        noise_multiplier=1.0,
        sampling_prob=0.01,
        accountant="rdp",
    )
    assert answer.data["num_steps"] == expected
    assert answer.lines[0].startswith(f"{expected:,} steps: the most for epsilon 1")


def test_delta_and_epsilon_are_each_others_inverse():
    epsilon = epsilon_of(RUN)
    answer = catalogue.delta(settings(delta=None, epsilon=float(epsilon)))
    assert answer.data["delta"] == pytest.approx(1e-5, rel=1e-3)
    assert "Delta at epsilon 1.82824, by the accountant 'exact':" in answer.lines
    assert answer.data["delta"] < answer.data["unamplified"]["delta"] < 1


def test_the_curve_ends_where_the_run_does():
    answer = catalogue.curve_(settings(points=5))
    assert answer.data["steps"] == [1, 250, 500, 750, 1000]
    assert answer.data["epsilons"][-1] == pytest.approx(epsilon_of(RUN), rel=1e-6)
    assert sorted(answer.data["epsilons"]) == answer.data["epsilons"]
    rows = [line.split() for line in answer.lines if re.match(r" +[\d,]+  ", line)]
    assert [row[0] for row in rows] == ["1", "250", "500", "750", "1,000"]


@pytest.mark.parametrize(
    ("last", "expected"), [(0, [0]), (1, [1]), (2, [1, 2]), (3, [1, 2, 3])]
)
def test_a_short_run_has_a_short_curve(last, expected):
    answer = catalogue.curve_(settings(num_steps=last, accountant="rdp"))
    assert answer.data["steps"] == expected


def test_the_exact_number_comes_first_and_is_the_least():
    answer = catalogue.compare(settings())
    found = answer.data["epsilons"]
    assert list(found) == ["exact", "pld", "rdp"]
    for name, entry in found.items():
        assert entry["epsilon"] == epsilon_of(RUN, name)
    assert found["exact"]["epsilon"] == min(one["epsilon"] for one in found.values())
    rows = [line.split()[0] for line in answer.lines if line.startswith("  ")]
    assert rows == ["exact", "pld", "rdp"]


def test_an_accountant_without_a_number_says_so_beside_the_others(monkeypatch):
    whole = catalogue.accountants.event_epsilon

    def refusing(event, delta, *, accountant):
        if accountant == "pld":
            raise accounting.AccountingError("no account")
        return whole(event, delta, accountant=accountant)

    monkeypatch.setattr(catalogue.accountants, "event_epsilon", refusing)
    answer = catalogue.compare(settings())
    assert list(answer.data["epsilons"]) == ["exact", "rdp"]
    assert "  pld     none: no account" in answer.lines


def test_without_noise_epsilon_is_infinite_in_a_word():
    answer = catalogue.epsilon(settings(noise_multiplier=0.0))
    assert answer.data["epsilon"] == math.inf
    assert any(line.endswith("infinite") for line in answer.lines)


@pytest.mark.parametrize("name", catalogue.ALL)
def test_every_answer_has_a_picture_and_is_an_object(name):
    solved = {"noise": "noise_multiplier", "steps": "num_steps"}.get(name)
    told = {"epsilon": 1.5} if name in ("delta", "noise", "steps") else {}
    if name == "delta":
        told["delta"] = None
    told |= {solved: None} if solved else {}
    answer = catalogue.ALL[name](settings(accountant="rdp", **told))
    assert answer.draw().axes
    assert isinstance(json.loads(json.dumps(answer.data)), dict)
