"""What the private learners share: flags, mechanism, words."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from absl import flags
from private_learners import Settings, define_flags, guarantee, table, without_privacy

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
    spent = f"{mechanism.epsilon(1e-5):.4f}"
    assert f"({spent}, 1e-05)-differentially private for each episode" in words
    assert "neighbours: add or remove one episode" in words
    assert f"Noise multiplier {mechanism.noise_multiplier:.3f}, clip norm 0.5" in words
    assert "with probability 0.1." in words


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


@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("private_td.py", ["--steps=0"], "--steps=0"),
        ("private_td.py", ["--epsilon=-1"], "target_epsilon=-1.0"),
        ("private_td.py", ["--epsilon=nan"], "target_epsilon=nan"),
        ("private_maml.py", ["--delta=1"], "delta=1.0"),
        ("private_maml.py", ["stray"], "Expected flags alone, got 'stray'"),
        ("private_quantised.py", ["--seed=-1"], "--seed=-1"),
        ("private_quantised.py", ["--no_such_flag"], "no_such_flag"),
    ],
)
def test_bad_flags_end_a_script_in_one_line(script, arguments, named):
    path = os.pathsep.join([str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"{script}: ")
    assert named in ended.stderr
