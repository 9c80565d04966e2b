"""From canaries to a verdict: private training passes, other training fails."""

import dataclasses
import functools
import json

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from audited import audit, data, gaussian_trainer, loss, params, plan
from scipy import stats

import dpjax
from dpjax import sampling
from dpjax.auditing import (
    AuditError,
    AuditReport,
    ExampleCanaries,
    GradientCanaries,
    auroc,
    question,
    with_canaries,
)
from dpjax.auditing.directions import Directions


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


told = []


@functools.cache
def usual():
    def tell(*pair):
        told.append(pair)

    return audit(GradientCanaries(200), background=200, progress=tell)


def test_private_training_is_passed():
    assert not usual().violated
    assert usual().theoretical == with_canaries(plan(), 200).epsilon(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("direction", ["dirac", "random"])
def test_private_training_is_passed_with_other_seeds_too(direction, seed):
    canaries = GradientCanaries(200, direction, seed=seed)
    assert not audit(canaries, key=seed, coin_seed=seed).violated


@pytest.mark.parametrize("direction", ["dirac", slowly("random")])
def test_a_canary_that_is_in_scores_one_and_noise_is_as_large_as_stated(direction):
    found = usual()
    if direction == "random":
        found = audit(GradientCanaries(200, direction), background=200)
    deviation = 1.0 * np.sqrt(8) / (8 * 100 / 400)
    slack = 4 * deviation / np.sqrt(100)
    assert found.out_scores.mean() == pytest.approx(0, abs=slack)
    assert found.in_scores.mean() == pytest.approx(1, abs=slack)
    assert found.out_scores.std() == pytest.approx(deviation, rel=0.35)


@pytest.mark.slow
def test_the_audit_has_power():
    found = audit(GradientCanaries(400), mechanism=plan(noise_multiplier=0.4))
    assert 1 < found.lower_bound < found.theoretical


@pytest.mark.slow
def test_the_bound_by_the_mechanisms_own_curve_is_larger():
    mechanism = plan(noise_multiplier=0.4)
    found = audit(GradientCanaries(400), mechanism=mechanism, method="fdp")
    assert found.method == "fdp"
    assert found.bounds["dp"] < found.lower_bound < found.theoretical
    assert found.lower_bound == found.bounds["fdp"]
    assert found.bounds["fdp_gaussian"] == pytest.approx(found.lower_bound, rel=0.3)


def without_noise(self, optimizer, key=None):
    silent = dataclasses.replace(self, noise_multiplier=0.0)
    return OPTIMIZER(silent, optimizer, key)


def without_clipping(self, loss_fn, **options):
    grads = dataclasses.replace(self, l2_norm_clip=1e6)
    free = CLIPPED_GRAD(grads, loss_fn, **options)

    def fn(*batch, **settings):
        found = free(*batch, **settings)
        return dataclasses.replace(found, sensitivity=self.sensitivity)

    return fn


OPTIMIZER, CLIPPED_GRAD = dpjax.DPSGD.optimizer, dpjax.DPSGD.clipped_grad
BUGS = {"optimizer": without_noise, "clipped_grad": without_clipping}


@pytest.mark.parametrize("direction", ["dirac", slowly("random")])
@pytest.mark.parametrize("place", BUGS)
def test_training_without_noise_or_without_clipping_is_caught(
    monkeypatch, place, direction
):
    monkeypatch.setattr(dpjax.DPSGD, place, BUGS[place])
    found = audit(
        GradientCanaries(200, direction),
        mechanism=plan(noise_multiplier=6.0, num_steps=32),
        background=200,
    )
    assert found.violated
    assert found.lower_bound > 1.5 * found.theoretical
    assert "Violation" in found.verdict


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("mislabelled", "gradient"),
        slowly("mislabelled", "loss"),
        slowly("random", "checkpoints"),
        slowly("crafted", "gradient"),
        slowly("mislabelled", "checkpoints"),
        slowly("random", "loss"),
        slowly("random", "gradient"),
        slowly("crafted", "loss"),
        slowly("crafted", "checkpoints"),
    ],
)
def test_example_canaries_show_where_there_is_little_noise(kind, score):
    mechanism = plan(noise_multiplier=1e-3, num_steps=60, l2_norm_clip=2.0)
    found = audit(ExampleCanaries(60, kind), mechanism=mechanism, score=score)
    assert found.score == score
    assert auroc(found.in_scores, found.out_scores).value > 0.6
    assert not found.violated


@pytest.mark.parametrize("noise_std", [0.02, 5.0])
def test_a_foreign_trainer_is_judged_by_what_it_returns(noise_std):
    mechanism = plan(expected_batch_size=200, num_steps=1, noise_multiplier=5.0)
    trainer = gaussian_trainer(noise_std)
    found = audit(GradientCanaries(200), mechanism=mechanism, trainer=trainer)
    assert (found.access, found.score) == ("black-box", "displacement")
    assert found.theoretical == with_canaries(mechanism, 200).epsilon(1e-5)
    assert found.violated == (noise_std < 1)


def test_the_trainer_sees_canaries_as_rows_and_their_code_in_the_loss():
    seen = {}

    def trainer(loss_fn, params, data, key):
        seen["rows"] = [len(leaf) for leaf in data]
        seen["codes"] = data[0]
        seen["loss"] = loss_fn(params, *(leaf[0] for leaf in data))
        return jax.tree.map(
            lambda leaf: leaf + jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape),
            params,
        )

    found = audit(GradientCanaries(40), trainer=trainer)
    assert seen["rows"] == [240] * 3
    expected = np.where(found.coins, np.arange(40), -2)
    np.testing.assert_array_equal(seen["codes"], [*[-1] * 200, *expected])
    assert seen["loss"] == pytest.approx(float(loss(params(), *(d[0] for d in data()))))


# Repeating.


@pytest.mark.parametrize(
    "canaries", [GradientCanaries(60), slowly(ExampleCanaries(60))]
)
def test_the_seeds_of_a_report_repeat_it(canaries):
    small = {"mechanism": plan(num_steps=2), "background": 0}
    found = audit(canaries, key=None, coin_seed=None, **small)
    text = found.to_json(per_example_scores=True)
    kept = json.loads(text)
    key = jnp.asarray(kept["seeds"]["key"], jnp.uint32)
    again = audit(canaries, key=key, coin_seed=kept["seeds"]["coins"], **small)
    assert again == found == AuditReport.from_json(text)


def test_progress_is_told():
    usual()
    assert told == [(step, 8) for step in range(1, 9)]


# What is refused.


def nan_trainer(loss_fn, params, data, key):
    return jax.tree.map(lambda leaf: leaf * jnp.nan, params)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"significance": 0.0}, ValueError, "significance"),
        ({"significance": 1.0}, ValueError, "significance"),
        ({"delta": 1.0}, ValueError, "delta"),
        ({"delta": -0.1}, ValueError, "delta"),
        ({"delta": 0.0, "method": "fdp"}, ValueError, "delta"),
        ({"guesses": 61}, ValueError, "guesses=61"),
        ({"guesses": 4}, AuditError, "at least 5 guesses"),
        ({"significance": 1e-20}, AuditError, "at least 67 guesses"),
        ({"method": "best"}, ValueError, "method"),
        ({"score": "loss"}, ValueError, "score"),
        ({"score": "gradient", "trainer": nan_trainer}, ValueError, "score"),
        ({"trainer": nan_trainer}, ValueError, "finite scores"),
        ({"trainer": lambda *_: jnp.zeros(3)}, ValueError, "trainer's parameters"),
        ({"coin_seed": -1}, ValueError, "coin_seed"),
        ({"background": -1}, ValueError, "background"),
    ],
)
def test_what_cannot_be_answered_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        audit(GradientCanaries(60), **options)


@pytest.mark.parametrize(
    ("canaries", "error", "message"),
    [
        (GradientCanaries(1241), ValueError, "1240 parameters"),
        (GradientCanaries(1), AuditError, "at least 5 guesses"),
        (ExampleCanaries(61, "crafted"), ValueError, "60 features"),
        (60, TypeError, "canaries"),
    ],
)
def test_canaries_that_do_not_fit_are_refused(canaries, error, message):
    with pytest.raises(error, match=message):
        audit(canaries)


def test_an_optimizer_or_a_trainer_is_needed():
    with pytest.raises(TypeError, match="optimizer"):
        dpjax.auditing.one_run_audit(
            plan(), loss, params(), data(), canaries=GradientCanaries(60), delta=1e-5
        )


def test_a_mechanism_without_a_promise_is_refused():
    free = dpjax.NonPrivate(num_examples=200, expected_batch_size=100, num_steps=2)
    with pytest.raises(TypeError, match="DPSGD"):
        audit(GradientCanaries(60), mechanism=free)


def test_a_mechanism_whose_noise_is_not_solved_for_is_refused_before_training():
    def never(*_):
        raise AssertionError("trained")

    with pytest.raises(ValueError, match="calibrate"):
        audit(
            GradientCanaries(60),
            mechanism=plan(noise_multiplier=None),
            trainer=never,
        )


def test_the_mechanisms_own_curve_is_for_poisson_samples():
    fixed = plan(sampler=sampling.FixedSize())
    with pytest.raises(ValueError, match="Poisson"):
        audit(GradientCanaries(60), mechanism=fixed, method="fdp")
    chosen = (
        question._checked_method(None, fixed),
        question._checked_method(None, plan()),
    )
    assert chosen == ("dp", "fdp")


def test_a_name_that_the_room_does_not_have_is_an_error():
    with pytest.raises(AttributeError, match="two_run_audit"):
        _ = dpjax.auditing.two_run_audit


# Coverage.

ONE_RUN = question.one_run_epsilon
NUM, COUNT = 4900, 100


def released_by_gaussian(seed):
    """Return a trainer whose one step is all noise and canaries, made with NumPy."""
    positions = Directions.make(GradientCanaries(COUNT), np.zeros(COUNT)).positions

    def trainer(loss_fn, params, data, key):
        rng = np.random.default_rng([99, seed])
        codes = data[0]
        drawn = rng.random(len(codes)) < NUM / (NUM + COUNT)
        total = rng.normal(size=COUNT).astype(np.float32)
        total[positions[codes[(codes >= 0) & drawn]]] += 1
        return params - total

    return trainer


def refutations(trials, method, monkeypatch):
    """Count the violations that are found in private releases, at 5 %."""
    cached = {}

    def remembered(**counts):
        name = counts["num_correct"], counts.get("method"), "mechanism" in counts
        if name not in cached:
            cached[name] = ONE_RUN(**counts)
        return cached[name]

    mechanism = plan(
        num_examples=NUM, expected_batch_size=NUM, num_steps=1, noise_multiplier=1.0
    )
    promise = with_canaries(mechanism, COUNT).epsilon(1e-5)
    monkeypatch.setattr(question, "one_run_epsilon", remembered)
    monkeypatch.setattr(dpjax.DPSGD, "epsilon", lambda self, delta: promise)
    found = [
        dpjax.auditing.one_run_audit(
            mechanism,
            lambda params, x: 0.0,
            np.zeros(COUNT, np.float32),
            np.zeros(NUM, np.float32),
            canaries=GradientCanaries(COUNT),
            delta=1e-5,
            coin_seed=seed,
            key=0,
            method=method,
            trainer=released_by_gaussian(seed),
        )
        for seed in range(trials)
    ]
    assert np.mean([report.lower_bound > 0 for report in found]) > 0.5
    return sum(report.violated for report in found)


@pytest.mark.parametrize(
    ("method", "trials"),
    [
        ("dp", 100),
        slowly("dp", 2000),
        slowly("fdp", 2000),
    ],
)
def test_private_training_is_refuted_no_more_often_than_stated(
    method, trials, monkeypatch
):
    most = stats.binom.ppf(0.999, trials, 0.05)
    assert refutations(trials, method, monkeypatch) <= most
