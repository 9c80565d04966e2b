"""Runs that share one budget: each is charged once, before it releases anything."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import compilations
import dp_accounting
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import mechanism, sampling, training
from dpjax.accounting import (
    Budget,
    BudgetExceeded,
    FilterFile,
    LedgerError,
    PrivacyLedger,
    RenyiFilter,
)
from dpjax.noise import correlated
from dpjax.training import fingerprint, folder, processes, storage

if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

DATA = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
PLAN = mechanism.DPSGD(
    num_examples=40,
    expected_batch_size=10,
    num_steps=6,
    l2_norm_clip=1.0,
    noise_multiplier=2.0,
)
BUDGET = Budget(epsilon=5.0, delta=1e-5)


kept_compilations = compilations.kept_compilations


def loss_fn(params, x):
    return ((params - x) ** 2).sum()


def shared(path, budget=BUDGET, **options):
    return FilterFile(path / "budget.json", RenyiFilter(budget, **options))


def run(path, privacy_filter, plan=PLAN, *, name="run", stop_after=None, **options):
    """Train in `path / name`; stop by an error after some steps."""
    released = []

    def evaluate(params):
        released.append(fingerprint.tree_digest(params))
        if len(released) == stop_after:
            raise RuntimeError("power cut")
        return {"first": params[0]}

    defaults = {
        "run_dir": path / name,
        "key": 3,
        "delta": 1e-5,
        "evaluate": evaluate,
        "logging": training.Logging(every=1, progress=False),
        "checkpointing": training.Checkpointing(every=2 if stop_after else 100),
        "loss": loss_fn,
    }
    chosen = defaults | options
    result = training.fit(
        plan,
        chosen.pop("loss"),
        jnp.zeros(3),
        DATA,
        optax.sgd(0.1),
        privacy_filter=privacy_filter,
        **chosen,
    )
    return released, result


def events(entries):
    return [(entry.event, entry.times) for entry in entries]


# What is charged.


PLANS = {
    "poisson": PLAN,
    "staged": mechanism.DPStagedSGD(
        **dataclasses.asdict(PLAN) | {"noise_multiplier": 3.0},
        final_noise_ratio=0.7,
        num_stages=2,
    ),
    "discrete": mechanism.DPDiscreteSGD(
        num_examples=40,
        expected_batch_size=10,
        num_steps=6,
        l2_norm_clip=1.0,
        noise_multiplier=4.0,
        sampler=sampling.Deterministic(),
    ),
    "correlated": mechanism.DPMatrixFactorization(
        num_examples=40,
        expected_batch_size=10,
        num_steps=6,
        l2_norm_clip=1.0,
        noise_multiplier=4.0,
        strategy=correlated.square_root(3),
        sampler=sampling.ShuffledEpochs(),
    ),
}


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(plan, marks=[] if plan is PLAN else pytest.mark.slow, id=name)
        for name, plan in PLANS.items()
    ],
)
def test_a_run_is_charged_with_the_event_of_all_its_steps(tmp_path, plan):
    relation = plan.neighboring_relation
    budget = shared(tmp_path, Budget(20.0, 1e-5), relation=relation)
    run(tmp_path, budget, plan)
    assert events(budget.entries) == events(plan.ledger().entries)
    same = RenyiFilter(Budget(20.0, 1e-5), relation=relation)
    same.spend(plan.event(), "as the mechanism says")
    assert budget.snapshot().used == same.used


@pytest.mark.slow
def test_a_run_that_stops_at_a_budget_of_its_own_is_charged_with_its_steps(tmp_path):
    budget = shared(tmp_path)
    limit = PLAN.epsilon(1e-5, step=4)
    _, result = run(tmp_path, budget, max_epsilon=limit * 1.0001)
    assert result.steps == 4
    assert [entry.times for entry in budget.entries] == [4]


def test_the_charge_is_on_the_disk_before_there_is_a_run(tmp_path, monkeypatch):
    seen, begin = [], folder.begin

    def watched(path, *rest):
        seen.append((len(shared(tmp_path).entries), (path / "config.json").exists()))
        begin(path, *rest)

    monkeypatch.setattr(folder, "begin", watched)
    released, _ = run(tmp_path, shared(tmp_path))
    assert seen == [(1, False)]
    assert len(released) == PLAN.num_steps


@pytest.mark.parametrize("name", [pytest.param("run", marks=pytest.mark.slow), None])
def test_runs_are_charged_until_nothing_is_left(tmp_path, name):
    budget, count = shared(tmp_path), 0
    with pytest.raises(BudgetExceeded, match="the budget of epsilon 5"):  # noqa: PT012
        while True:
            place = {} if name is None else {"name": f"run {count}"}
            where = {"run_dir": None} if name is None else {}
            run(tmp_path, budget, key=count, **place, **where)
            count += 1
    alone = RenyiFilter(BUDGET)
    for number in range(count):
        alone.spend(PLAN.event(), str(number))
    assert not alone.admits(PLAN.event())
    assert len({entry.label for entry in budget.entries}) == count > 1


@pytest.mark.slow
def test_a_filter_of_this_program_is_charged_like_a_file(tmp_path):
    budget = RenyiFilter(BUDGET)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, budget, stop_after=3)
    run(tmp_path, budget, resume=True)
    run(tmp_path, budget, key=4, run_dir=None)
    assert events(budget.entries) == 2 * events(PLAN.ledger().entries)


def test_the_budget_stands_in_the_folder_and_is_said_at_the_end(tmp_path, capsys):
    showing = training.Logging(every=3)
    run(tmp_path, shared(tmp_path), logging=showing)
    said = "all runs that share the budget, together: epsilon at most 5 at delta 1e-05"
    assert said in capsys.readouterr().out.splitlines()
    config, summary = (
        json.loads((tmp_path / "run" / name).read_text())
        for name in ("config.json", "summary.json")
    )
    promised = {"epsilon": 5.0, "delta": 1e-5}
    assert config["training"]["privacy_filter"] == promised
    assert summary["privacy_filter"] == promised
    run(tmp_path, None, name="alone", logging=showing)
    assert "share" not in capsys.readouterr().out


# What is refused, and what it leaves.


def everything_below(path):
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else None
        for p in path.rglob("*")
    }


@pytest.mark.parametrize("there", [False, True], ids=["no file", "a file"])
def test_a_run_that_does_not_fit_writes_and_releases_nothing(tmp_path, there):
    budget = shared(tmp_path)
    if there:
        budget.spend(dp_accounting.GaussianDpEvent(1.4), "most of it")
        os.remove(tmp_path / "budget.json.lock")
    before = everything_below(tmp_path)
    plan = dataclasses.replace(PLAN, noise_multiplier=1.0 if there else 0.4)
    released = []
    with pytest.raises(BudgetExceeded, match="training on"):
        run(tmp_path, budget, plan, evaluate=released.append)
    assert everything_below(tmp_path) == before
    assert not released


def test_two_runs_of_one_budget_have_two_keys(tmp_path):
    budget = shared(tmp_path)
    run(tmp_path, budget)
    other = dataclasses.replace(PLAN, noise_multiplier=3.0)
    for key in (3, np.array([0, 3], np.uint32)):
        with pytest.raises(ValueError, match="a key that no other run of this budget"):
            run(tmp_path, budget, other, key=key, name="other")
    assert not (tmp_path / "other").exists()
    run(tmp_path, budget, other, key=4, name="other")
    assert len(budget.entries) == 2


def test_what_fails_before_the_first_step_costs_nothing(tmp_path):
    budget = shared(tmp_path)
    for options, error in (
        ({"loss": lambda params, x: params - x}, (TypeError, ValueError)),
        ({"engine": "warp"}, ValueError),
        ({"plan": dataclasses.replace(PLAN, num_examples=41)}, ValueError),
        ({"run_dir": tmp_path / "file" / "run"}, training.RunFolderError),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(error):
            run(tmp_path, budget, **options)
    with folder.locked(tmp_path / "busy"), pytest.raises(training.RunFolderError):
        run(tmp_path, budget, name="busy")
    assert not budget.entries


@pytest.mark.parametrize(
    ("privacy_filter", "plan", "error", "named"),
    [
        (
            RenyiFilter(BUDGET, relation=dp_accounting.NeighboringRelation.REPLACE_ONE),
            PLAN,
            ValueError,
            "a filter under .*ADD_OR_REMOVE_ONE",
        ),
        (
            RenyiFilter(BUDGET),
            PLANS["discrete"],
            ValueError,
            "a filter under .*REPLACE_SPECIAL",
        ),
        (
            RenyiFilter(BUDGET),
            mechanism.NonPrivate(num_examples=40, expected_batch_size=10, num_steps=6),
            ValueError,
            "no budget for a run without privacy",
        ),
        (PrivacyLedger(BUDGET), PLAN, TypeError, "a PrivacyFilter or a FilterFile"),
        (BUDGET, PLAN, TypeError, "a PrivacyFilter or a FilterFile"),
    ],
)
def test_a_filter_that_does_not_fit_the_mechanism_is_refused(
    tmp_path, privacy_filter, plan, error, named
):
    with pytest.raises(error, match=named):
        run(tmp_path, privacy_filter, plan)
    assert os.listdir(tmp_path) == []


def test_a_damaged_budget_stops_a_run_before_it_begins(tmp_path):
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(LedgerError, match="whole"):
        run(tmp_path, shared(tmp_path))
    assert os.listdir(tmp_path) == ["budget.json"]


# Runs that are stopped.


def test_a_run_that_is_resumed_is_not_charged_again(tmp_path):
    budget = shared(tmp_path)
    whole, ended = run(tmp_path, None, name="whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, budget, stop_after=5)
    before = (tmp_path / "budget.json").read_bytes()
    released, result = run(tmp_path, budget, resume=True)
    assert released == whole[4:]
    digests = result.summary["sha256"], ended.summary["sha256"]
    assert digests[0] == digests[1]
    run(tmp_path, budget, resume=True)  # it has ended
    assert (tmp_path / "budget.json").read_bytes() == before


@pytest.mark.slow
def test_nothing_need_be_left_for_a_run_that_is_resumed(tmp_path):
    budget = shared(tmp_path)
    plan = PLAN.calibrate_to(budget)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, budget, plan, stop_after=1)
    assert not budget.admits(PLAN.event())
    run(tmp_path, budget, plan, resume=True)


def test_a_run_goes_on_under_the_budget_that_it_was_charged_to_alone(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, shared(tmp_path), stop_after=3)
    for others in ([], [PLAN.event()]):
        other = RenyiFilter(BUDGET)
        for event in others:
            other.spend(event, "training")
        with pytest.raises(training.ResumeError, match="this run was charged to"):
            run(tmp_path, other, resume=True)
    for other in (None, RenyiFilter((6.0, 1e-5))):
        with pytest.raises(training.ResumeError):
            run(tmp_path, other, resume=True)
    run(tmp_path, shared(tmp_path), resume=True)


def test_a_run_does_not_go_on_under_the_charge_of_another_with_its_key(tmp_path):
    (tmp_path / "other").mkdir()
    own, other = shared(tmp_path), shared(tmp_path / "other")
    other.spend(PLAN.event(), "something else")
    run(tmp_path, other, name="first")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, own, stop_after=3)
    with pytest.raises(training.ResumeError, match="this run was charged to"):
        run(tmp_path, other, resume=True)


def test_runs_of_one_budget_have_one_unit_of_privacy(tmp_path):
    budget = shared(tmp_path)
    budget.spend(PLAN.event(), "training on 10 units, key 01234567")
    before = budget.entries
    with pytest.raises(ValueError, match=r"as many units .*10.*num_examples=40"):
        run(tmp_path, budget)
    assert budget.entries == before
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_budget_does_not_go_on_under_one(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, None, stop_after=3)
    budget = shared(tmp_path)
    with pytest.raises(training.ResumeError, match="privacy_filter was None"):
        run(tmp_path, budget, resume=True)
    assert not budget.entries


def test_what_fails_between_charge_and_run_loses_budget_and_gives_none_back(
    tmp_path, monkeypatch
):
    def full(*_):
        raise training.WriteError("Expected to write a file (No space left).")

    budget, released = shared(tmp_path), []
    with monkeypatch.context() as patch:
        patch.setattr(folder, "begin", full)
        with pytest.raises(training.WriteError):
            run(tmp_path, budget, evaluate=released.append)
    assert (len(budget.entries), released) == (1, [])
    with pytest.raises(ValueError, match="a key that no other run"):
        run(tmp_path, budget)
    run(tmp_path, budget, key=4)
    assert len(budget.entries) == 2


KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = [sys.argv[2]]
import test_training_charging as tests
tests.folder.begin = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
path = pathlib.Path(sys.argv[1])
tests.run(path, tests.shared(path))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_charge_has_lost_it_and_no_more(tmp_path):
    here = pathlib.Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(here)]
    path = os.pathsep.join([str(here.parent), str(here)])
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "config.json").exists()
    budget = shared(tmp_path)
    assert events(budget.entries) == events(PLAN.ledger().entries)
    run(tmp_path, budget, key=4)
    assert len(budget.entries) == 2


# Several processes.


def test_only_the_first_process_charges(tmp_path, monkeypatch):
    charged = []

    class Watched(RenyiFilter):
        def spend(self, event, label):
            charged.append(label)
            super().spend(event, label)

    monkeypatch.setattr(processes, "is_first", lambda: False)
    _, result = run(tmp_path, Watched(BUDGET))
    assert result.steps == PLAN.num_steps
    assert not charged
