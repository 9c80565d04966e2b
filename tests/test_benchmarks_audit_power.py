"""The benchmark of audits runs, and README shows what it measured."""

import json
import pathlib
import sys

import numpy as np
import pytest
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import audit_power
import audit_scenes
import audit_tables
import command
import table


def parsed(*arguments):
    flag_values = flags.FlagValues()
    audit_power.define_flags(flag_values)
    flag_values(["audit_power", *arguments])
    return flag_values


@pytest.fixture(scope="module")
def run():
    return audit_power.measure(parsed("--quick", "--trials=2"))


# What is audited.


@pytest.mark.parametrize("two_sided", [True, False])
def test_expected_guesses_are_those_of_many_canaries(two_sided):
    mu, canaries, random = 1.0, 400_000, np.random.default_rng(0)
    ins, outs = audit_scenes.normal_scores(mu, canaries // 2, random)
    total, right = audit_scenes.normal_guesses(mu, canaries, 0.2, two_sided)
    assert total == 0.2 * canaries
    order = np.argsort(np.concatenate([ins, outs]))
    inside = order < ins.size
    top = total // 2 if two_sided else total
    found = inside[-top:].sum() + ((~inside[:top]).sum() if two_sided else 0)
    # Five standard deviations of a binomial number.
    assert abs(found - right) < 5 * np.sqrt(total / 4)
    if two_sided:
        again = audit_scenes.expected_guesses((ins, outs), canaries, 0.2)
        assert again == (total, found)


def test_scores_are_the_log_likelihood_ratio_of_the_mechanism():
    mechanism = audit_scenes.Mechanism(0.3, 4, 1.0)
    random = np.random.default_rng(0)
    ins, outs = (mechanism.scores(200_000, inside, random) for inside in (True, False))
    # E_out[ratio] = 1 = E_in[1 / ratio], whatever the mechanism.
    for ratio in (np.exp(outs), np.exp(-ins)):
        error = 5 * ratio.std() / np.sqrt(ratio.size)
        assert abs(ratio.mean() - 1) < error


def test_a_full_batch_is_the_gaussian_mechanism():
    ratio = audit_scenes.Mechanism(1.0, 1, 2.0).scores(
        100_000, True, np.random.default_rng(0)
    )
    np.testing.assert_allclose(ratio.mean(), 1 / 8, atol=0.01)
    np.testing.assert_allclose(ratio.std(), 1 / 2, atol=0.01)


# What comes out.


def assert_is_a_run(run):
    for row in run["guesses"]:
        bounds = row["bounds"]
        assert 0 < bounds["dp_in"] < bounds["dp_both"] < row["theory"]
        assert bounds["dp_both"] < bounds["fdp_both"] < row["theory"]
        assert bounds["fdp_in"] < bounds["fdp_both"]
    for row in run["curves"]:
        assert 0 < row["bounds"]["own"] < row["theory"]
    for row in run["power"]:
        assert row["quantiles"].keys() == audit_tables.METHODS.keys()
        for low, middle, high in row["quantiles"].values():
            assert 0 <= low <= middle <= high


def test_command_measures_and_says_it_in_tables(run, tmp_path):
    assert_is_a_run(json.loads(json.dumps(run)))
    audit_power.write_out(run, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text == audit_tables.render(run)
    assert "these numbers measure nothing" in text
    assert json.loads((tmp_path / "results.json").read_text()) == run
    assert "Clopper-Pearson" in (tmp_path / "power.svg").read_text()


def test_gains_of_two_sided_guesses_are_those_of_the_note():
    row = audit_power.guesses_row(1000, 1.0)
    # From a search over all numbers of guesses; here over 25 shares.
    for name, value in (("dp_in", 1.409), ("dp_both", 1.657), ("fdp_both", 2.493)):
        assert abs(row["bounds"][name] - value) < 0.05


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="got parts='nothing'"):
        audit_power.measure(parsed("--parts=nothing"))


def test_results_that_are_kept_are_measurements():
    kept = audit_power.COMMAND.read_results()
    if kept is None:
        pytest.skip("no results are kept")
    assert_is_a_run(kept)
    assert not kept["settings"]["quick"]
    assert all(kept[part] for part in audit_power.PARTS)
    # Of 40 runs at 95 %, seven above epsilon are improbable: one in 300.
    for row in kept["power"]:
        assert max(row["too_high"].values()) <= 6 / kept["settings"]["trials"]


def test_readme_shows_the_results_that_are_kept():
    block = table.read_block(command.README.read_text(), audit_tables.MARKS)
    if block is None:
        pytest.skip("README shows no benchmark of audits")
    assert block == audit_tables.render(audit_power.COMMAND.read_results())
