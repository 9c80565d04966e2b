"""fit: the training loop, what it writes, and how it is taken up again."""

import dataclasses
import functools
import io
import json
import operator
import os
import re
import shutil
import signal
import stat
import sys
from typing import NamedTuple

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import (
    _versions,
    accounting,
    mechanism,
    optimizers,
    sampling,
    training,
)
from dpjax.clipping import ExampleDependenceError, rules
from dpjax.noise import correlated
from dpjax.training import checkpoints, fingerprint, folder, storage

needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.int32)
PARAMS = {"w": jnp.array([0.1, 0.2, -0.1]), "b": jnp.zeros(())}
DPSGD = mechanism.DPSGD(
    num_examples=60,
    expected_batch_size=20,
    num_steps=12,
    l2_norm_clip=0.7,
    noise_multiplier=1.0,
)
CORRELATED = mechanism.DPMatrixFactorization(
    num_examples=60,
    expected_batch_size=20,
    num_steps=12,
    l2_norm_clip=0.7,
    noise_multiplier=1.0,
    strategy=correlated.square_root(3),
    sampler=sampling.ShuffledEpochs(),
)
QUIET = training.Logging(every=3, progress=False)


kept_compilations = compilations.kept_compilations


def loss_fn(params, x, y):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y)


def evaluate(params):
    right = (X @ params["w"] + params["b"] > 0) == Y
    return {"test_accuracy": right.mean()}


def run(mechanism_=DPSGD, loss=loss_fn, params=PARAMS, data=(X, Y), **options):
    optimizer = options.pop("optimizer", optax.adam(0.1))
    defaults = {"key": 7, "delta": 1e-5, "logging": QUIET, "evaluate": evaluate}
    return training.fit(
        mechanism_, loss, params, data, optimizer, **(defaults | options)
    )


def digest(result):
    return fingerprint.tree_digest((result.params, result.average, result.opt_state))


def by_hand(plan, key, optimizer):
    private = plan.optimizer(optimizer, key)
    clipped_grad = plan.clipped_grad(loss_fn)
    params, state = PARAMS, private.init(PARAMS)
    path = []
    for chunks in plan.batches(key):
        grads = [
            clipped_grad(params, X[indices], Y[indices], mask=mask)
            for indices, mask in chunks
        ]
        total = grads[0]
        for more in grads[1:]:
            total = total + more
        updates, state = private.update(total, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def assert_close(a, b, **tolerance):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            left, right, **({"rtol": 2e-5, "atol": 1e-6} | tolerance)
        )


# One run.


PLANS = {
    "one chunk": DPSGD,
    "chunks": dataclasses.replace(DPSGD, static_batch_size=8),
    "bins": dataclasses.replace(DPSGD, sampler=sampling.BallsInBins()),
    "rule": dataclasses.replace(DPSGD, l2_norm_clip=rules.Automatic(0.7)),
    "correlated": CORRELATED,
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_fit_is_the_loop_written_by_hand(plan):
    result = run(plan)
    assert_close(result.params, by_hand(plan, 7, optax.adam(0.1))[-1])
    assert result.epsilon["exact"] == plan.epsilon(1e-5)


def test_a_draw_larger_than_the_chunk_is_summed_not_truncated():
    small = dataclasses.replace(DPSGD, static_batch_size=4)
    largest = max(len(chunks) for chunks in small.batches(7))
    assert largest > 5
    results = run(small), run(dataclasses.replace(DPSGD, static_batch_size=60))
    assert_close(results[0].params, results[1].params)
    sizes = [[line["not_private"]["batch_size"] for line in r.history] for r in results]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("static_batch_size", [None, 4])
def test_the_step_is_compiled_once(static_batch_size):
    def counting(params, x, y):
        counts[-1] += 1
        return loss_fn(params, x, y)

    plan = dataclasses.replace(DPSGD, static_batch_size=static_batch_size)
    counts = []
    for num_steps in (2, 12):
        counts.append(0)
        fresh = functools.partial(counting)  # a function that no cache knows
        run(dataclasses.replace(plan, num_steps=num_steps), fresh, ema_decay=0.9)
    assert counts[0] == counts[1]


def test_a_clip_norm_that_adapts_is_that_of_the_step_before():
    adapting = optimizers.AdaptiveClip(initial_l2_norm_clip=0.7, target_quantile=0.9)
    plan = dataclasses.replace(DPSGD, l2_norm_clip=adapting, static_batch_size=16)
    private = plan.optimizer(optax.adam(0.1), 7)
    clipped_grad = plan.clipped_grad(loss_fn)
    params, state, path = PARAMS, private.init(PARAMS), []
    for chunks in plan.batches(7):
        clip_norm = optimizers.adaptive_clip_norm(state)
        path.append(float(clip_norm))
        parts = []
        for i, mask in chunks:
            options = {"mask": mask, "l2_norm_clip": clip_norm}
            grads = clipped_grad(params, X[i], Y[i], **options)
            parts.append(optimizers.VotedGrads.of(grads, mask, clip_norm))
        total = functools.reduce(operator.add, parts)
        updates, state = private.update(total, state, params)
        params = optax.apply_updates(params, updates)
    result = run(plan)
    assert_close(result.params, params, rtol=1e-5)
    released = [line["public"]["l2_norm_clip"] for line in result.history]
    np.testing.assert_allclose(released[:-1], path[3::3], rtol=1e-5)
    assert path[0] == pytest.approx(0.7)
    assert len(set(path)) == len(path)
    assert result.epsilon == run().epsilon


def test_data_may_be_one_pytree_and_parameters_nested():
    def loss(params, example):
        return loss_fn(params["inner"], example["x"], example["y"])

    data = {"x": jnp.asarray(X), "y": Y}
    # The noise depends on the names of the leaves, so there is none here.
    plan = dataclasses.replace(DPSGD, noise_multiplier=0.0)
    inner = {"inner": PARAMS}
    nested = run(plan, loss, params=inner, data=data, evaluate=None)
    assert_close(nested.params["inner"], run(plan).params)
    assert nested.public == {}


def test_epsilon_at_logged_steps_is_the_mechanisms():
    result = run()
    assert [line["step"] for line in result.history] == [3, 6, 9, 12]
    for line in result.history:
        for name in ("exact", "pld", "rdp"):
            expected = DPSGD.epsilon(1e-5, step=line["step"], accountant=name)
            assert line["epsilon"][name] == pytest.approx(expected, rel=1e-6)
    assert result.epsilon == result.history[-1]["epsilon"]
    spent = optimizers.privacy_spent(result.opt_state, 1e-5)
    assert spent.epsilon == pytest.approx(result.epsilon["exact"], rel=1e-6)
    assert (spent.steps, result.steps, result.status) == (12, 12, "finished")


def test_without_delta_nothing_is_claimed():
    result = run(delta=None)
    assert result.epsilon == {}
    assert result.history[-1]["epsilon"] == {}


def test_an_empty_draw_is_a_step_of_pure_noise():
    plan = dataclasses.replace(DPSGD, expected_batch_size=0.05, num_steps=4)
    assert sum(int(mask.sum()) for ((_, mask),) in plan.batches(7)) == 0
    result = run(plan, logging=training.Logging(every=1, progress=False))
    assert [line["not_private"]["batch_size"] for line in result.history] == [0] * 4
    assert result.history[0]["not_private"]["train_loss"] is None
    assert not np.array_equal(result.params["w"], PARAMS["w"])


def test_average_is_the_formula_and_is_what_is_evaluated():
    seen = []

    def keep(params):
        seen.append(params)
        return evaluate(params)

    log = training.Logging(every=1, progress=False)
    result = run(ema_decay=0.9, evaluate=keep, logging=log)
    average = jax.tree.map(np.asarray, PARAMS)
    for t, params in enumerate(by_hand(DPSGD, 7, optax.adam(0.1))):
        decay = min(0.9, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), average, params
        )
        assert_close(seen[t], average, rtol=1e-4)
    assert_close(result.average, average, rtol=1e-4)
    assert run().average is None


def test_average_of_half_precision_parameters_is_kept_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    result = run(params=half, ema_decay=0.9)
    assert result.average["w"].dtype == result.params["w"].dtype == jnp.bfloat16


def test_the_callers_parameters_are_left_alone():
    before = jax.tree.map(np.array, PARAMS)
    run()
    assert_close(before, PARAMS, rtol=0, atol=0)


def test_budget_stops_before_the_step_that_would_pass_it():
    full = run(logging=training.Logging(every=1, progress=False))
    sixth = full.history[5]["epsilon"]["exact"]
    stopped = run(max_epsilon=sixth * 1.0001)
    assert (stopped.status, stopped.steps) == ("stopped_at_budget", 6)
    assert stopped.epsilon["exact"] <= sixth * 1.0001
    assert_close(stopped.params, by_hand(DPSGD, 7, optax.adam(0.1))[5])
    assert run(max_epsilon=1e9).status == "finished"


def test_the_ledger_has_what_was_spent_and_the_budget():
    limit = DPSGD.epsilon(1e-5, step=6) * 1.0001
    stopped = run(max_epsilon=limit)
    assert stopped.ledger.budget == (limit, 1e-5)
    assert stopped.ledger.epsilon(1e-5) == pytest.approx(stopped.epsilon["exact"])
    (entry,) = stopped.ledger.entries
    assert (entry.times, entry.label) == (6, "training")
    with pytest.raises(accounting.BudgetExceeded):
        stopped.ledger.spend(entry.event, "one step more")
    assert run(delta=None).ledger.budget is None


def test_the_run_folder_has_the_ledger_and_the_summary_its_digest(tmp_path):
    result = run(run_dir=tmp_path / "run", key=None)
    digest = result.summary["sha256"]["ledger"]
    path = tmp_path / "run" / "ledger.json"
    found = accounting.PrivacyLedger.load(path, digest=digest)
    assert found.entries == result.ledger.entries


def test_budget_too_small_for_one_step_trains_nothing():
    result = run(max_epsilon=1e-6)
    assert (result.status, result.steps, result.history) == ("stopped_at_budget", 0, [])
    assert_close(result.params, PARAMS, rtol=0, atol=0)


FULL_BATCHES = {"num_examples": 60, "expected_batch_size": 60, "num_steps": 5}


def test_the_loop_without_privacy_is_plain_optax():
    plan = mechanism.NonPrivate(**FULL_BATCHES, sampler=sampling.ShuffledEpochs())
    result = run(plan, delta=None)
    optimizer, params = optax.adam(0.1), PARAMS
    state = optimizer.init(params)
    for _ in range(5):
        grads = jax.grad(lambda p: jax.vmap(loss_fn, (None, 0, 0))(p, X, Y).mean())(
            params
        )
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(result.params, params)
    names = ("exact", "pld", "rdp")
    assert result.epsilon == dict.fromkeys(names, np.inf)
    assert result.history[-1]["epsilon"] == dict.fromkeys(names, "inf")
    assert result.ledger.epsilon(1e-5) == np.inf
    assert result.history[-1]["not_private"]["grad_norm_quantiles"] == {}


def test_no_noise_and_no_clip_is_the_loop_without_privacy():
    plain = mechanism.NonPrivate(num_examples=60, expected_batch_size=20, num_steps=12)
    free = dataclasses.replace(DPSGD, noise_multiplier=0.0, l2_norm_clip=1e6)
    assert_close(run(free).params, run(plain).params, rtol=1e-4)
    assert run(free).epsilon["exact"] == np.inf


def test_a_loss_with_randomness_gets_its_own_key_each_example_and_step():
    def dropout(params, x, y, key):
        keep = jax.random.bernoulli(key, 0.5, x.shape)
        return loss_fn(params, jnp.where(keep, 2 * x, 0), y)

    one, same = (run(loss=dropout, prng_argnum=3) for _ in range(2))
    assert digest(one) == digest(same)
    assert digest(run(loss=dropout, prng_argnum=3, key=8)) != digest(one)

    seen = []

    def spying(params, x, y, key):
        words = jax.random.key_data(key)
        jax.debug.callback(lambda words: seen.append(tuple(words.tolist())), words)
        return loss_fn(params, x, y)

    plan = dataclasses.replace(DPSGD, num_steps=3, static_batch_size=8)
    run(plan, spying, prng_argnum=3)
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == sum(8 * len(c) for c in plan.batches(7))


def test_a_loss_that_is_not_finite_is_reported(capsys):
    x = X.copy()
    x[5] = np.nan
    plan = dataclasses.replace(DPSGD, expected_batch_size=60)
    result = run(plan, data=(x, Y), logging=training.Logging(every=3))
    line = result.history[-1]["not_private"]
    assert line["train_loss"] == "nan"
    assert line["non_finite_examples"] == 12
    assert result.summary["not_private"] == {"non_finite_examples": 12}
    assert np.isfinite(result.params["w"]).all()
    assert (
        "12 losses or gradients of examples were not finite" in capsys.readouterr().out
    )


def test_the_two_ways_to_give_a_seed_are_the_same_and_seeds_differ():
    assert digest(run(key=7)) == digest(run(key=jax.random.key(7)))
    assert digest(run(key=7)) != digest(run(key=8))
    assert digest(run(key=None)) != digest(run(key=None))


# What a person sees.


def test_plain_lines_and_a_closing_statement_are_shown(capsys):
    run(logging=training.Logging(every=6))
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("step 12/12  loss 0.")
    for word in ("epsilon ", "test_accuracy ", " left"):
        assert word in lines[0]
    exact, pld, rdp = (
        f"{DPSGD.epsilon(1e-5, accountant=name) + 5e-4:.3f}"
        for name in ("exact", "pld", "rdp")
    )
    assert f"epsilon: {exact} (exact; PLD {pld}, RDP {rdp}) at" in said.out
    for phrase in (
        "test_accuracy: ",
        "delta 1e-05 after 12 steps",
        "neighbouring relation: add or remove one example",
        "sampling: Poisson",
        "Not private, not to be released: training losses and gradient norms",
        "The key comes from a seed",
    ):
        assert phrase in said.out
    assert "not a guarantee" not in said.out


def test_the_unit_of_privacy_is_said(capsys):
    run(unit="user", logging=training.Logging())
    said = capsys.readouterr().out
    assert "neighbouring relation: add or remove one user\n" in said


def test_without_poisson_samples_their_epsilon_is_quoted_as_no_guarantee(capsys):
    shuffled = dataclasses.replace(DPSGD, sampler=sampling.ShuffledEpochs())
    result = run(shuffled, logging=training.Logging())
    quoted = shuffled.epsilon_if_poisson(1e-5)
    assert quoted.if_it_were < result.epsilon["exact"]
    assert result.summary["not_a_guarantee"] == str(quoted)
    assert f"Only for comparison: {quoted}.\n" in capsys.readouterr().out
    assert run(shuffled, delta=None).summary["not_a_guarantee"] is None


def test_the_number_of_poisson_sampling_is_shown_as_what_it_is(capsys):
    shuffled = dataclasses.replace(DPSGD, sampler=sampling.ShuffledEpochs())
    run(shuffled, logging=training.Logging(every=6))
    said = capsys.readouterr().out
    quoted = shuffled.epsilon_if_poisson(1e-5)
    assert f"Often quoted for such batches: {quoted}." in said
    assert "not a guarantee" in said
    run(logging=training.Logging(every=6))
    assert "not a guarantee" not in capsys.readouterr().out


def test_a_key_from_the_system_is_not_said_to_be_a_seed(capsys):
    run(key=None, logging=training.Logging(every=6))
    assert "seed" not in capsys.readouterr().out


def test_a_terminal_gets_a_bar_with_loss_epsilon_and_time_left(monkeypatch):
    pytest.importorskip("tqdm")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    run(logging=training.Logging(every=6))
    said = terminal.getvalue()
    bar = r"100%.*12/12 \[\d\d:\d\d<\d\d:\d\d.*loss 0\.\d+  epsilon [\d.]+  test_acc"
    assert re.search(bar, said.split("\r")[-1])


def test_nothing_is_shown_when_nothing_is_asked_for(capsys):
    run()
    assert capsys.readouterr() == ("", "")


# Bad input.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": (X[:50], Y[:50])}, ValueError, "num_examples=60, got its leading ax"),
        ({"data": (X, Y[:50])}, ValueError, "share the length of their leading"),
        ({"data": (X, np.int32(3))}, ValueError, "leading batch axis"),
        ({"data": ()}, ValueError, "leading batch axis"),
        ({"params": {}}, ValueError, "at least one array"),
        ({"params": {"w": jnp.arange(3)}}, TypeError, "floating-point leaves"),
        ({"loss": lambda p, x, y: p["w"] * x * y}, ValueError, "scalar"),
        ({"mechanism_": "dpsgd"}, TypeError, "a mechanism .DPSGD"),
        ({"ema_decay": 1.0}, ValueError, "ema_decay=1.0"),
        ({"delta": 0.0}, ValueError, "delta=0.0"),
        ({"max_epsilon": -1.0}, ValueError, "max_epsilon=-1.0"),
        ({"max_epsilon": 1.0, "delta": None}, TypeError, "delta=None"),
        ({"run_dir": "x", "delta": None}, TypeError, "delta=None"),
        ({"evaluate": 3}, TypeError, "evaluate=3"),
        ({"unit": " "}, ValueError, "a word or a few, got unit=' '"),
        ({"unit": 3}, TypeError, "a word or a few, got unit=3"),
        ({"microbatch_size": 0}, ValueError, "microbatch_size=0"),
        ({"engine": "warp"}, ValueError, "engine='warp'"),
        ({"resume": True}, folder.RunFolderError, "run_dir=None"),
        ({"key": 1.5}, TypeError, "key=1.5"),
        ({"settings": {"a": object()}}, TypeError, "a value that JSON can hold"),
        ({"optimizer": optimizers.dpsgd(0.1, 1.0, 1.0, 0)}, ValueError, "Expected"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, change, error, message
):
    monkeypatch.chdir(tmp_path)
    options = {"run_dir": "run"} | change
    if options.get("resume"):
        options["run_dir"] = None
    with pytest.raises(error, match=message):
        run(**options)
    assert os.listdir(tmp_path) == []


def test_a_budget_for_a_run_without_privacy_is_refused():
    plan = mechanism.NonPrivate(num_examples=60, expected_batch_size=20, num_steps=1)
    with pytest.raises(ValueError, match="no budget for a run without privacy"):
        run(plan, max_epsilon=1.0)


def test_logging_settings_are_checked():
    with pytest.raises(ValueError, match="every=0"):
        training.Logging(every=0)
    with pytest.raises(ValueError, match=r"a multiple of every=10, got evaluate_every"):
        training.Logging(every=10, evaluate_every=15)


def test_evaluation_can_be_rarer_than_logging():
    log = training.Logging(every=2, evaluate_every=6, progress=False)
    history = run(logging=log).history
    assert [line["step"] for line in history if line["public"]] == [6, 12]
    assert len(history) == 6


def test_a_batched_loss_is_taken_one_example_at_a_time():
    def batched(params, x, y):
        return jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, x, y))

    assert_close(run(loss=batched, keep_batch_dim=True).params, run().params)


def test_a_batched_loss_that_mixes_examples_is_refused():
    def mixing(params, x, y):
        centred = x - x.mean(0)
        return jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, centred, y))

    with pytest.raises(ExampleDependenceError):
        run(loss=mixing, keep_batch_dim=True)


# The run folder.


def read_lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").open()]


@needs_orbax
def test_the_run_folder_holds_what_the_report_reads(tmp_path):
    path = tmp_path / "runs" / "one"
    result = run(run_dir=path, settings={"model": "logistic"}, ema_decay=0.5)
    config = json.loads((path / "config.json").read_text())
    assert config["version"] == 1
    assert config["private"] is True
    assert config["delta"] == 1e-5
    assert config["mechanism"] == DPSGD.describe()
    assert config["settings"] == {"model": "logistic"}
    assert config["training"]["ema_decay"] == 0.5
    assert config["model"]["parameters"] == {
        "['b']": "float32[]",
        "['w']": "float32[3]",
    }
    assert config["versions"]["jax"] == jax.__version__
    assert read_lines(path) == result.history
    summary = json.loads((path / "summary.json").read_text())
    assert summary == result.summary
    assert summary["epsilon"] == result.epsilon
    assert summary["public"] == result.public
    assert summary["sha256"]["metrics"] == result.summary["sha256"]["metrics"]
    assert checkpoints.steps(path / "checkpoints") == [10, 12]


@needs_orbax
def test_parameters_and_their_average_are_loaded_from_the_folder(tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    result = run(params=half, ema_decay=0.9, run_dir=tmp_path / "run")
    for average, expected in ((False, result.params), (True, result.average)):
        loaded = training.load_params(tmp_path / "run", half, average=average)
        assert fingerprint.tree_digest(loaded) == fingerprint.tree_digest(expected)
    with pytest.raises(training.CheckpointError, match=r"leaf \['b'\] is bfloat16"):
        training.load_params(tmp_path / "run", half | {"b": half["w"]})
    with pytest.raises(training.CheckpointError, match="a run with a checkpoint"):
        training.load_params(tmp_path, half)


@needs_orbax
def test_the_run_folder_is_closed_to_other_users(tmp_path):
    run(run_dir=tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    for name in ("config.json", "private.json", "metrics.jsonl", "summary.json"):
        mode = (tmp_path / "run" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


@needs_orbax
def test_the_key_is_in_one_file_alone(tmp_path):
    path = tmp_path / "run"
    run(run_dir=path, key=123456789)
    found = [
        name
        for name in ("config.json", "private.json", "metrics.jsonl", "summary.json")
        if "123456789" in (path / name).read_text()
    ]
    assert found == ["private.json"]


@needs_orbax
def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    run(run_dir=tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(folder.RunFolderError, match="Expected a folder without a run"):
        run(run_dir=tmp_path / "run", key=8)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(folder.RunFolderError, match="a folder with a run to resume"):
        run(run_dir=tmp_path / "nothing", resume=True)
    assert os.listdir(tmp_path) == []


@needs_orbax
def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with (
        folder.locked(tmp_path / "run"),
        pytest.raises(folder.RunFolderError, match="no other process trains"),
    ):
        run(run_dir=tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(folder.RunFolderError, match="a folder that can be written"):
        run(run_dir=tmp_path / "file" / "run")


# Interruption and resumption.


def interrupting(step, signum=signal.SIGINT):
    """Return an evaluation that sends this process a signal, once."""
    calls = []

    def evaluate_and_interrupt(params):
        calls.append(1)
        if len(calls) == step // QUIET.every:
            os.kill(os.getpid(), signum)
        return evaluate(params)

    return evaluate_and_interrupt


def resumable(path, **options):
    return run(run_dir=path, ema_decay=0.9, **options)


def outcome(path):
    summary = json.loads((path / "summary.json").read_text())
    return summary["sha256"], (path / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    return digest(resumable(path)), outcome(path)


@needs_orbax
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_run_ends_after_its_step_and_goes_on_bit_for_bit(
    tmp_path, uninterrupted, signum, code
):
    path = tmp_path / "run"
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(training.Interrupted) as caught:
        resumable(path, evaluate=interrupting(6, signum))
    assert (caught.value.code, caught.value.steps) == (code, 6)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert checkpoints.steps(path / "checkpoints") == [6]
    assert not (path / "summary.json").exists()
    result = resumable(path, resume=True)
    assert (digest(result), outcome(path)) == uninterrupted
    assert result.history == read_lines(path)


@needs_orbax
def test_correlated_noise_goes_on_bit_for_bit(tmp_path):
    whole = run(CORRELATED)
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        run(CORRELATED, run_dir=path, evaluate=interrupting(6))
    assert digest(run(CORRELATED, run_dir=path, resume=True)) == digest(whole)


@needs_orbax
@pytest.mark.parametrize("step", [3, 9])
def test_a_run_that_fails_midway_goes_on_from_its_checkpoint(
    tmp_path, uninterrupted, step
):
    path = tmp_path / "run"
    calls = []

    def failing(params):
        calls.append(1)
        if len(calls) == step // 3 + 1:
            raise RuntimeError("power cut")
        return evaluate(params)

    every = training.Checkpointing(every=2)
    with pytest.raises(RuntimeError, match="power cut"):
        resumable(path, evaluate=failing, checkpointing=every)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "eps')
    result = resumable(path, resume=True, checkpointing=every)
    assert (digest(result), outcome(path)) == uninterrupted


@needs_orbax
def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path, uninterrupted):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(3))
    for name in os.listdir(path / "checkpoints"):
        (path / "checkpoints" / name).rename(tmp_path / name)
    result = resumable(path, resume=True)
    assert (digest(result), outcome(path)) == uninterrupted


@needs_orbax
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(
    tmp_path, uninterrupted, capsys
):
    path = tmp_path / "run"
    every = training.Checkpointing(every=3)
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(9), checkpointing=every)
    assert checkpoints.steps(path / "checkpoints") == [6, 9]
    (path / "checkpoints" / "9" / "manifest" / "metadata").write_text("{}")
    shown = training.Logging(every=3)
    result = resumable(path, resume=True, logging=shown, checkpointing=every)
    said = capsys.readouterr().err
    assert "checkpoint 9 is damaged" in said
    assert "going on from step 6" in said
    assert (digest(result), outcome(path)) == uninterrupted


@needs_orbax
def test_a_fresh_key_is_kept_for_resuming(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, key=None, evaluate=interrupting(6))
    words = json.loads((path / "private.json").read_text())["key"]
    resumed = resumable(path, key=None, resume=True)
    key = jnp.array(words, jnp.uint32)
    assert digest(resumed) == digest(run(key=key, ema_decay=0.9))


@needs_orbax
def test_a_finished_run_resumed_does_nothing_and_says_the_same(tmp_path, uninterrupted):
    path = tmp_path / "run"
    first = resumable(path)
    again = resumable(path, resume=True, evaluate=interrupting(3))
    assert (digest(again), outcome(path)) == uninterrupted
    assert again.public == first.public
    assert again.history == first.history


def other_loss(params, x, y):
    return loss_fn(params, jnp.tanh(x), y)


CHANGES = {
    "mechanism": ({"mechanism_": dataclasses.replace(DPSGD, noise_multiplier=1.1)},
                  r"mechanism.noise_multiplier was 1.0 and is now 1.1"),
    "clip": ({"mechanism_": dataclasses.replace(DPSGD, l2_norm_clip=0.8)},
             r"mechanism.l2_norm_clip was 0.7 and is now 0.8"),
    "steps": ({"mechanism_": dataclasses.replace(DPSGD, num_steps=13)},
              r"mechanism.num_steps was 12 and is now 13"),
    "loss": ({"loss": other_loss}, r"model.loss was"),
    "learning rate": ({"optimizer": optax.adam(0.2)}, r"model.optimizer was"),
    "parameters": (
        {"params": {"w": jnp.zeros(3), "b": jnp.zeros(1)},
         "loss": lambda p, x, y: loss_fn(p, x, y).sum()},
        r"model.parameters.\['b'\] was 'float32\[\]' and is now 'float32\[1\]'"),
    "data": ({"data": (X + 1, Y)}, "the data are not the same"),
    "settings": ({"settings": {"a": 2}}, r"settings.a was 1 and is now 2"),
    "new setting": ({"settings": {"a": 1, "b": 2}},
                    r"settings.b was None and is now 2"),
    "average": ({"ema_decay": None}, r"training.ema_decay was 0.9 and is now None"),
    "delta": ({"delta": 1e-6}, r"delta was 1e-05 and is now 1e-06"),
    "budget": ({"max_epsilon": 1.0}, r"training.max_epsilon was None"),
    "logging": ({"logging": training.Logging(every=4, progress=False)},
                r"training.log_every was 3 and is now 4"),
    "key": ({"key": 8}, "the key that the run was begun with"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(6), settings={"a": 1})
    return path


@needs_orbax
@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused_by_the_difference(stopped, name):
    change, message = CHANGES[name]
    options = {"run_dir": stopped, "ema_decay": 0.9, "settings": {"a": 1}} | change
    before = sorted(os.walk(stopped))
    with pytest.raises(training.ResumeError, match=message):
        run(resume=True, **options)
    assert sorted(os.walk(stopped)) == before


@needs_orbax
def test_other_initial_parameters_are_refused_without_a_checkpoint(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(3))
    (path / "checkpoints" / "3").rename(tmp_path / "3")
    others = jax.tree.map(jnp.ones_like, PARAMS)
    with pytest.raises(training.ResumeError, match="Expected the initial parameters"):
        resumable(path, resume=True, params=others)


@needs_orbax
def test_a_checkpoint_of_a_run_with_another_key_is_refused(tmp_path):
    for key in (7, 8):
        with pytest.raises(training.Interrupted):
            resumable(tmp_path / str(key), evaluate=interrupting(3), key=key)
    shutil.rmtree(tmp_path / "7" / "checkpoints")
    (tmp_path / "8" / "checkpoints").rename(tmp_path / "7" / "checkpoints")
    with pytest.raises(training.ResumeError, match="one with another key"):
        resumable(tmp_path / "7", resume=True)


@needs_orbax
@pytest.mark.parametrize("name", ["config.json", "private.json"])
def test_a_torn_file_of_the_run_is_named(tmp_path, name):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(3))
    (path / name).write_text("{")
    with pytest.raises(folder.RunFolderError, match=name):
        resumable(path, resume=True)


@needs_orbax
def test_another_version_is_mentioned(tmp_path, capsys):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(3))
    config = json.loads((path / "config.json").read_text())
    config["versions"]["jax"] = "0.0.1"
    config["model"]["loss"] = "what the older version traced"
    (path / "config.json").write_text(json.dumps(config))
    resumable(path, resume=True, logging=training.Logging(every=3))
    said = capsys.readouterr().err
    assert "versions.jax was '0.0.1'" in said
    assert "loss and optimizer were not compared" in said


@needs_orbax
@pytest.mark.parametrize("every", [100, 6], ids=["no checkpoint", "a checkpoint"])
def test_no_step_is_released_again_by_another_version(tmp_path, monkeypatch, every):
    path, calls = tmp_path / "run", []

    def stop(params):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return evaluate(params)

    options = {"checkpointing": training.Checkpointing(every=every)}
    with pytest.raises(RuntimeError, match="power cut"):
        resumable(path, evaluate=stop, **options)
    installed = _versions.installed

    def newer(packages):
        return installed(packages) | {"jax": "99.0"}

    before = (path / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(_versions, "installed", newer)
        with pytest.raises(training.ResumeError, match=r"released twice.*99\.0"):
            resumable(path, resume=True, **options)
    assert (path / "metrics.jsonl").read_bytes() == before
    resumable(path, resume=True, **options)


@needs_orbax
def test_the_loss_is_compared_where_no_version_changed_that_traces_it(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(training.Interrupted):
        resumable(path, evaluate=interrupting(3))
    config = json.loads((path / "config.json").read_text())
    config["versions"]["numpy"] = "0.0.1"
    config["model"]["loss"] = "of another loss"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(training.ResumeError, match="of another loss"):
        resumable(path, resume=True)


@needs_orbax
def test_a_full_disk_ends_the_run_with_its_last_checkpoint_whole(
    tmp_path, monkeypatch, uninterrupted
):
    path = tmp_path / "run"
    every = training.Checkpointing(every=3)
    write = storage.write

    def full(target, step, *rest):
        if step > 6:
            raise OSError(28, "No space left on device")
        write(target, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        with pytest.raises(training.CheckpointError, match="No space left on device"):
            resumable(path, checkpointing=every)
    assert checkpoints.steps(path / "checkpoints") == [3, 6]
    result = resumable(path, resume=True, checkpointing=every)
    assert (digest(result), outcome(path)) == uninterrupted


def test_a_run_without_a_folder_can_be_interrupted_too():
    with pytest.raises(training.Interrupted) as caught:
        run(evaluate=interrupting(6))
    assert caught.value.steps == 6


def test_a_sharpness_aware_run_is_for_the_centre_of_where_gradients_are_taken(tmp_path):
    seen = []

    def keep(params):
        seen.append(params)
        return {}

    optimizer = optimizers.sharpness_aware(optax.sgd(0.1), 0.5)
    folder = tmp_path / "run"
    result = run(
        DPSGD, optimizer=optimizer, run_dir=folder, evaluate=keep, ema_decay=0.9
    )
    centre = optimizers.trained_params(result.opt_state)
    assert_close(result.params, centre)
    assert_close(training.load_params(folder, PARAMS), centre)
    # One step without a radius is where the first average is taken.
    once = dataclasses.replace(DPSGD, num_steps=1)
    plain = run(once, evaluate=None, ema_decay=0.9, optimizer=optax.sgd(0.1))
    uphill = run(once, evaluate=None, ema_decay=0.9, optimizer=optimizer)
    assert_close(uphill.params, plain.params)
    assert_close(uphill.average, plain.average)
    last = training.load_params(folder, PARAMS, average=True)
    assert_close(last, result.average)
    assert_close(seen[-1], result.average)


def test_parameters_that_are_called_centre_are_found_in_a_run(tmp_path):
    class Named(NamedTuple):
        centre: jax.Array

    def loss(params, x, y):
        return loss_fn({"w": params.centre, "b": 0.0}, x, y)

    start = Named(PARAMS["w"])
    result = run(loss=loss, params=start, run_dir=tmp_path / "run", evaluate=None)
    assert_close(training.load_params(tmp_path / "run", start), result.params)
