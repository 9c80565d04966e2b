"""What the private learners share: flags, mechanism, words."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from absl import flags
from private_learners import (
    Settings,
    define_flags,
    guarantee,
    parse,
    run,
    table,
    without_privacy,
)

import dpjax

SCRIPTS = pathlib.Path(__file__).parents[1] / "examples"
SETTINGS = Settings(epsilon=2.0, delta=1e-5, steps=30, seed=3)


def test_the_mechanism_spends_epsilon_and_no_more():
    mechanism = SETTINGS.mechanism(1000, 100, l2_norm_clip=0.5)
    assert 2.0 - 1e-6 < mechanism.epsilon(1e-5) <= 2.0
    assert (mechanism.num_steps, mechanism.l2_norm_clip) == (30, 0.5)
    assert mechanism.is_poisson


def test_the_loop_without_privacy_has_the_same_batches():
    mechanism = SETTINGS.mechanism(1000, 100, l2_norm_clip=0.5)
    plain = without_privacy(mechanism)
    for chunks, others in zip(mechanism.batches(3), plain.batches(3), strict=True):
        for chunk, other in zip(chunks, others, strict=True):
            assert (chunk.indices == other.indices).all()
            assert (chunk.mask == other.mask).all()


def test_the_guarantee_names_unit_relation_and_the_epsilon_of_the_mechanism():
    mechanism = SETTINGS.mechanism(1000, 100, l2_norm_clip=0.5)
    words = " ".join(guarantee(mechanism, 1e-5, "episode").split())
    said = re.search(
        r"is \((.*), 1e-05\)-differentially private for each episode", words
    )
    assert 0 <= float(said[1]) - mechanism.epsilon(1e-5) < 1e-4
    assert f"more than e^{said[1]} times as likely" in words
    assert "neighbours: add or remove one episode" in words
    assert f"Noise multiplier {mechanism.noise_multiplier:.3f}, clip norm 0.5" in words
    assert "with probability 0.1." in words


@pytest.mark.parametrize("noise_multiplier", [1.0, 1.1, 1.2, 1.3])
def test_the_epsilon_that_is_printed_is_never_less_than_what_is_spent(noise_multiplier):
    mechanism = dpjax.DPSGD(
        num_examples=1000,
        expected_batch_size=100,
        num_steps=30,
        l2_norm_clip=1.0,
        noise_multiplier=noise_multiplier,
    )
    said = re.search(r"e\^(\S+)", guarantee(mechanism, 1e-5, "task"))
    assert 0 <= float(said[1]) - mechanism.epsilon(1e-5) < 1e-4


def test_keys_of_two_domains_differ_and_a_seed_repeats_them():
    def words(domain):
        return jax.random.key_data(SETTINGS.key(domain)).tolist()

    assert words("tasks") == words("tasks") != words("init")
    unseeded = Settings(epsilon=2.0, delta=1e-5, steps=30)
    first, second = (jax.random.key_data(unseeded.key("a")) for _ in range(2))
    assert first.tolist() != second.tolist()


def test_a_table_has_a_line_for_each_row_under_its_columns():
    lines = table(["name", "one", "two"], {"a": [1, 2], "bb": [0.1234, -5]}).split("\n")
    assert [line.split() for line in lines] == [
        ["name", "one", "two"],
        ["a", "1.000", "2.000"],
        ["bb", "0.123", "-5.000"],
    ]
    assert len(set(map(len, lines))) == 1


def test_every_setting_has_a_flag_with_its_default():
    flag_values = flags.FlagValues()
    define_flags(SETTINGS, flag_values)
    flag_values(["script", "--epsilon=1.5"])
    found = {name: flag_values[name].value for name in SETTINGS.__dict__}
    assert found == {"epsilon": 1.5, "delta": 1e-5, "steps": 30, "seed": 3}


def never(settings):
    raise AssertionError(settings)


def too_many_in_a_batch(settings):
    return str(settings.mechanism(10, 11, l2_norm_clip=1.0))


@pytest.mark.parametrize(
    ("arguments", "named", "describe"),
    [
        (["--steps=0"], "--steps=0", never),
        (["--steps=1.5"], "--steps=1.5", never),
        (["--seed=-1"], "--seed=-1", never),
        (["--epsilon=much"], "--epsilon=much", never),
        (["stray"], "Expected flags alone, got 'stray'", never),
        (["--no_such_flag"], "no_such_flag", never),
        (["--epsilon=0"], "> 0, got --epsilon=0.0.", never),
        (["--epsilon=-1"], "> 0, got --epsilon=-1.0.", never),
        (["--epsilon=nan"], "> 0, got --epsilon=nan.", never),
        (["--epsilon=inf"], "> 0, got --epsilon=inf.", never),
        (["--delta=0"], "in (0, 1), got --delta=0.0.", never),
        (["--delta=1"], "in (0, 1), got --delta=1.0.", never),
        (["--delta=nan"], "in (0, 1), got --delta=nan.", never),
        ([], "expected_batch_size=11", too_many_in_a_batch),
    ],
)
def test_bad_flags_end_a_script_in_one_line(capsys, arguments, named, describe):
    flag_values, script = flags.FlagValues(), "examples/learner.py"
    define_flags(SETTINGS, flag_values)

    def start():
        parse([script, *arguments], flag_values)
        run(describe, script, flag_values)

    with pytest.raises(SystemExit) as ended:
        start()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("learner.py: ")
    assert named in said.err


def test_a_run_hands_the_flags_over_and_prints_what_is_found(capsys):
    flag_values = flags.FlagValues()
    define_flags(SETTINGS, flag_values)
    parse(["learner.py", "--delta=1e-6", "--seed=9"], flag_values)
    run(repr, "learner.py", flag_values)
    expected = Settings(epsilon=2.0, delta=1e-6, steps=30, seed=9)
    assert capsys.readouterr().out == f"{expected!r}\n"


@pytest.mark.parametrize(
    "script",
    [
        "private_td.py",
        pytest.param("private_maml.py", marks=pytest.mark.slow),
        pytest.param("private_quantised.py", marks=pytest.mark.slow),
    ],
)
def test_a_script_itself_ends_in_one_line(script):
    path = os.pathsep.join([str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--epsilon=-1"],
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    message = "Expected a finite number > 0, got --epsilon=-1.0."
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{script}: {message}\n"
