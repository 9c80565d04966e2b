"""The bench of audits runs, and README shows what it measured."""

import contextlib
import functools
import json
import pathlib
import sys

import numpy as np
import pytest
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import audits
import audits_tables
import audits_trainers
import broken_trainers
import command
import table
import trainer_checks
import trainer_invariants
from trainer_audits import AUDITS
from trainer_invariants import INVARIANTS
from trainer_terms import Terms

PLAN = broken_trainers.plan(0.0, rows=6, steps=3, batch=2)


def parsed(*arguments):
    flag_values = flags.FlagValues()
    audits.define_flags(flag_values)
    flag_values(["audits", *arguments])
    return flag_values


def trainer(package):
    if why := audits_trainers.missing(package):
        pytest.skip(why)
    return audits_trainers.JaxTrainer(package)


# Libraries as trainers.


@pytest.mark.parametrize("package", audits_trainers.PARTS)
def test_libraries_release_the_clipped_sum_of_all_rows(package):
    plan = broken_trainers.plan(0.0, rows=6, steps=3)
    examples = np.random.default_rng(0).normal(size=(6, 2, 4)) * 3
    steps = trainer(package)(plan, examples, 2, 0)
    expected = broken_trainers.TRAINERS["correct"](plan, examples, 2, 0)
    assert steps.shape == (2, 3, 2, 4)
    np.testing.assert_allclose(steps, expected, atol=1e-5)


@pytest.mark.parametrize("package", ["dpjax", "jax_privacy"])
def test_libraries_draw_batches_of_their_own(package):
    examples = np.zeros((6, 2, 6))
    examples[:, 0] = 5 * np.eye(6)
    steps = trainer(package)(PLAN, examples, 200, 0)[:, :, 0]
    # A coin of probability 1/3 for each of 3,600 places, 0 or 1.
    np.testing.assert_allclose(steps, steps.round(), atol=1e-5)
    assert abs(steps.mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / steps.size)


@pytest.mark.parametrize("package", audits_trainers.PARTS)
def test_runs_do_not_share_noise(package):
    plan = broken_trainers.plan(1.0, rows=6, steps=3)
    steps = trainer(package)(plan, np.zeros((6, 2, 4)), 2, 0)
    assert np.unique(steps.round(6)).size == steps.size
    again = trainer(package)(plan, np.zeros((6, 2, 4)), 2, 0)
    np.testing.assert_array_equal(again, steps)


def test_dpjax_releases_the_noise_that_it_promises():
    assert not trainer_invariants.noise(trainer("dpjax")).caught


@pytest.mark.slow
@pytest.mark.parametrize("check", trainer_checks.CHECKS)
def test_dpjax_passes_every_check(check):
    found = trainer_checks.CHECKS[check](trainer("dpjax"), Terms(effort=0.2))
    assert not found.caught


def test_opacus_is_asked_through_files(tmp_path):
    class Stub:
        def ask(self, task, *, examples, out, plan, runs, seed, poisson):
            assert task == "train"
            assert plan["expected_batch_size"] == 2
            assert not poisson
            steps = runs, plan["num_steps"], *np.load(examples).shape[1:]
            np.save(out, np.full(steps, seed))
            return {"value": None}

    opacus = audits_trainers.OpacusTrainer(Stub(), tmp_path, poisson=False)
    np.testing.assert_array_equal(
        opacus(PLAN, np.zeros((6, 2, 4)), 5, 7), np.full((5, 3, 2, 4), 7)
    )


def test_an_answer_without_a_value_is_an_error(tmp_path):
    class Stub:
        def ask(self, task, **options):
            return {"error": "its process ended"}

    opacus = audits_trainers.OpacusTrainer(Stub(), tmp_path)
    with pytest.raises(RuntimeError, match="its process ended"):
        opacus(PLAN, np.zeros((6, 2, 4)), 5, 7)


# The command.


@functools.cache
def trial():
    with contextlib.redirect_stdout(None):
        return audits.measure(parsed("--quick", "--parts=broken,opacus"))


def test_a_trial_has_every_trainer_and_check_and_says_what_it_is():
    run = json.loads(json.dumps(trial(), allow_nan=False))
    assert [row["trainer"] for row in run["broken"]] == list(broken_trainers.TRAINERS)
    assert all(
        list(row["checks"]) == list(trainer_checks.CHECKS) for row in run["broken"]
    )
    text = audits_tables.render(run)
    assert "A trial" in text
    assert "- Opacus: left out, there is no --opacus_python." in text


def test_what_invariants_find_does_not_depend_on_the_runs():
    rows = {row["trainer"]: row["checks"] for row in trial()["broken"]}
    for name in INVARIANTS:
        assert not rows["correct"][name]["caught"]
    assert rows["one layer not clipped"]["sensitivity"]["caught"]
    assert rows["NaN not guarded"]["not finite"]["found"] == "inf"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"Expected any of .* got parts='nobody'"):
        audits.measure(parsed("--parts=nobody"))


@pytest.mark.parametrize(
    ("check", "caught", "found", "allowed", "text"),
    [
        ("all steps", True, 3.72, 1.52, "**3.7 > 1.5**"),
        ("one run", False, 0.16, 1.27, "0.2 < 1.3"),
        ("noise", True, 0.0842, 1.7, "**0.084 of 1.7**"),
        ("fresh noise", False, 0.0949, 0.158, "0.095 of 0.16"),
        ("not finite", True, "inf", 1.0, "**inf**"),
        ("not finite", False, 2e-15, 1.0, "0"),
        ("public divisor", True, 4.0, 1.0, "**4**"),
        ("sampling", True, 0.0, 1e-6, "**p < 1e-06**"),
        ("sampling", False, 0.4627, 1e-6, "p 0.46"),
    ],
)
def test_what_breaks_the_promise_is_bold(check, caught, found, allowed, text):
    row = {"caught": caught, "found": found, "allowed": allowed}
    assert audits_tables.cell(check, row) == text


def test_a_check_that_does_not_apply_is_empty():
    assert audits_tables.cell("sampling", None) == ""


def test_it_is_written_into_a_folder(tmp_path):
    audits.COMMAND.write_out(trial(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == trial()
    text = (tmp_path / "out" / "table.md").read_text()
    assert text == audits_tables.render(trial())


def test_results_that_are_kept_are_a_measurement_of_everyone():
    kept = audits.COMMAND.read_results()
    if kept is None:
        pytest.skip("no results are kept")
    assert not kept["settings"]["quick"]
    assert list(kept["libraries"]) == [
        part for part in audits.PARTS if part != "broken"
    ]
    assert not kept["skipped"]
    (correct, *bugs) = kept["broken"]
    assert not any(found["caught"] for found in correct["checks"].values())
    for row in bugs:
        assert any(row["checks"][name]["caught"] for name in AUDITS)
        assert any(row["checks"][name]["caught"] for name in INVARIANTS)
    for row in kept["libraries"]["dpjax"]["rows"]:
        assert not any(found and found["caught"] for found in row["checks"].values())


def test_readme_shows_the_results_that_are_kept():
    marks = audits_tables.MARKS
    block = table.read_block(command.README.read_text(), marks)
    if block is None:
        pytest.skip("README shows no bench of audits")
    assert block == audits_tables.render(audits.COMMAND.read_results())
