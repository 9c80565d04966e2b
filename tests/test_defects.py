"""The defects of other libraries: none is in dpjax, and where they were, they are.

A test on dpjax has the number of `defects_list`; its twin puts the same check to the
peer, in the version that is named there, and fails where the peer was mended. Opacus
and tensorflow-privacy have interpreters of their own: OPACUS_PYTHON and
TENSORFLOW_PRIVACY_PYTHON. Peers that are not there are skipped.
"""

import functools
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import accounting_client
import defects_checks as checks
import defects_list
import defects_ours as ours
import defects_peers as peers
import defects_table
import table

from dpjax import accounting, clipping, sampling
from dpjax.auditing import attacks
from dpjax.training import storage

needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax-checkpoint")


def pinned(peer):
    """Mark a test that shows a defect of an installed version, and of no other."""
    expected = defects_list.VERSIONS[peer]
    try:
        found = importlib.metadata.version(peer)
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    reason = f"seen in {peer} {expected}, installed is {found}"

    def mark(test):
        skip = pytest.mark.skipif(found != expected, reason=reason)
        return pytest.mark.slow(skip(test))

    return mark


needs_keras = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="needs keras"
)


class PeerError(Exception):
    """What a peer raised in its own process."""


class Peer:
    """A peer in a process of its own: its tasks are functions that return values."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, task):
        return functools.partial(self._ask, task)

    def _ask(self, task, **options):
        answer = self._client.ask(task, **options)
        if "value" not in answer:
            raise PeerError(str(answer))
        return answer["value"]


def served(package, variable, script):
    """Yield a peer that an interpreter of its own has, or skip."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"seen in {package}, which {variable} would have")
    script = str(accounting_client.HERE / script)
    # What this interpreter's environment says is not for the other (-E).
    command = [python, "-E", "-W", "ignore", script]
    with accounting_client.Client(package, command, 120.0) as client:
        peer = Peer(client)
        for name, found in peer.versions().items():
            if found != (expected := defects_list.VERSIONS[name]):
                pytest.skip(f"seen in {name} {expected}, installed is {found}")
        yield peer


@pytest.fixture(scope="module")
def opacus():
    yield from served("opacus", "OPACUS_PYTHON", "opacus_defects.py")


@pytest.fixture(scope="module")
def tensorflow_privacy():
    variable = "TENSORFLOW_PRIVACY_PYTHON"
    yield from served("tensorflow-privacy", variable, "tensorflow_defects.py")


def test_01_noise_without_a_key_is_new_every_time():
    assert checks.never_the_same_noise([ours.without_a_key() for _ in range(3)])


@pinned("optax")
def test_01_is_seen_in_optax():
    releases = [peers.optax_without_a_key() for _ in range(3)]
    assert not checks.never_the_same_noise(releases)


def test_02_each_run_of_one_plan_has_its_own_noise():
    assert checks.never_the_same_noise(ours.runs())


@pinned("jax-privacy")
def test_02_is_seen_in_jax_privacy():
    assert not checks.never_the_same_noise(peers.jax_privacy_runs())


def test_03_no_noise_is_repeated_beyond_the_last_step():
    found = ours.beyond_the_end()
    assert checks.never_the_same_noise(found)
    assert [np.isfinite(each).all() for each in found] == [True] * 3 + [False] * 2


@pinned("jax-privacy")
def test_03_is_seen_in_jax_privacy():
    assert not checks.never_the_same_noise(peers.jax_privacy_beyond_its_matrix())


def test_04_example_that_is_not_finite_adds_nothing():
    assert checks.broken_example_adds_nothing(ours.release)


@pinned("optax")
def test_04_is_seen_in_optax():
    assert not checks.broken_example_adds_nothing(peers.optax_release)


@pytest.mark.slow
def test_04_is_seen_in_opacus(opacus):
    def release(rows):
        return opacus.release(rows=rows.tolist())

    assert not checks.broken_example_adds_nothing(release)


def test_05_half_precision_is_clipped_to_the_clip_norm():
    assert checks.clip_bounds_half_precision(ours.clipped)


@pinned("optax")
def test_05_is_seen_in_optax():
    assert not checks.clip_bounds_half_precision(peers.optax_release)


@pinned("jax-privacy")
def test_05_is_seen_in_jax_privacy():
    assert not checks.clip_bounds_half_precision(peers.jax_privacy_clipped)


def test_06_divisor_is_public_and_a_batch_may_be_empty():
    assert checks.divisor_is_public(ours.release)


@pinned("optax")
def test_06_is_seen_in_optax():
    assert not checks.divisor_is_public(peers.optax_release)


def test_07_scale_of_the_noise_does_not_tell_the_number_of_examples():
    assert checks.scale_does_not_tell_the_size(ours.stddev)


@pytest.mark.slow
def test_07_is_seen_in_opacus(opacus):
    def stddev(rows):
        return opacus.stddev(rows=rows)

    assert not checks.scale_does_not_tell_the_size(stddev)
    assert stddev(9) / stddev(8) == pytest.approx(4 / 3, rel=0.03)


OTHERS = [[2.0, 0.0]] * 4
"""Clipped, all of them: their share of short gradients is 0."""


def adaptive_costs(adaptive):
    """Put check 8 to `adaptive(rows)`, which returns (draws, 3)."""
    without, with_it = adaptive(OTHERS), adaptive([*OTHERS, [0.99, 0.0]])
    return checks.costs_no_more_than_accounted(without, with_it, 1.0)


def test_08_clip_norm_that_adapts_costs_what_is_accounted():
    assert adaptive_costs(lambda rows: ours.adaptive(rows, 2_000, 0.6))


@pytest.mark.slow
def test_08_is_seen_in_opacus(opacus):
    def adaptive(rows):
        found = opacus.adaptive(rows=rows, draws=2_000, unclipped_num_std=0.6)
        assert found["recorded"] == 1.0
        return np.array(found["released"])

    assert not adaptive_costs(adaptive)


STRATEGIES = [[0.5], [0.5, 0.25], [1.0, 0.5]]


@pytest.mark.parametrize("column", STRATEGIES[:2], ids=str)
def test_09_noise_of_a_strategy_is_what_its_event_says(column):
    assert checks.noise_is_what_the_event_says(*ours.band_noise(column))


@pinned("jax-privacy")
def test_09_is_seen_in_jax_privacy():
    fit = {
        str(column): checks.noise_is_what_the_event_says(
            *peers.jax_privacy_band_noise(column)
        )
        for column in STRATEGIES
    }
    assert fit == {"[0.5]": False, "[0.5, 0.25]": False, "[1.0, 0.5]": True}


@pytest.mark.parametrize("sampler", [sampling.Poisson(), sampling.ShuffledEpochs()])
def test_10_account_is_that_of_the_batches(sampler):
    counts, epsilon = ours.epochs(sampler, 2, 1e-5)
    assert checks.account_fits_the_batches(counts, epsilon, 1.0, 1e-5)
    assert (counts == 1).all() == isinstance(sampler, sampling.ShuffledEpochs)


@pytest.mark.slow
def test_10_is_seen_in_opacus(opacus):
    found = opacus.epochs(count=2, rows=64, poisson=False, delta=1e-5)
    counts, epsilon = np.array(found["counts"]), found["epsilon"]
    assert not checks.account_fits_the_batches(counts, epsilon, 1.0, 1e-5)


@pinned("jax-privacy")
@needs_keras
def test_10_is_seen_in_jax_privacy():
    stated = 4.0
    sizes = {"batch_size": 4, "train_size": 64, "train_steps": 32}
    peers.keras_config(epsilon=stated, noise_multiplier=1.0, **sizes)
    counts = peers.keras_epochs()
    assert not checks.account_fits_the_batches(counts, stated, 1.0, 1e-5)


def test_11_example_enters_an_accumulated_step_once():
    assert checks.example_enters_a_step_once(ours.accumulated())
    assert checks.refuses(ours.refuse_multi_steps, ValueError)


@pinned("jax-privacy")
@needs_keras
def test_11_is_seen_in_jax_privacy():
    found = np.concatenate([peers.keras_accumulated(seed) for seed in range(2)])
    assert not checks.example_enters_a_step_once(found)


@pytest.mark.slow
def test_opacus_refuses_to_accumulate_samples(opacus):
    with pytest.raises(PeerError, match="not compatible with grad accumulation"):
        opacus.accumulate()


def test_12_pieces_of_a_batch_change_nothing():
    assert checks.pieces_change_nothing(ours.in_pieces)


@pytest.mark.slow
def test_12_is_seen_in_tensorflow_privacy(tensorflow_privacy):
    def release(rows, pieces):
        return tensorflow_privacy.release(rows=rows.tolist(), pieces=pieces)

    assert not checks.pieces_change_nothing(release)


def test_13_releases_by_count_cost_what_they_cost_one_by_one():
    compose = accounting.events.dp_accounting
    assert checks.composition_counts(
        lambda e, n: ours.epsilon_of(compose.SelfComposedDpEvent(e, n)),
        lambda e, n: ours.epsilon_of(compose.ComposedDpEvent([e] * n)),
    )


@pinned("dp-accounting")
def test_13_is_seen_in_dp_accounting():
    assert not checks.composition_counts(
        lambda e, n: peers.accounted(e, 1, n), lambda e, n: peers.accounted(e, n, 1)
    )


def test_14_epsilon_is_not_negative_and_an_epoch_is_whole():
    for accountant in accounting.accountants.NAMES:
        epsilon = functools.partial(ours.epsilon, accountant=accountant)
        assert checks.epsilon_and_steps_are_whole(epsilon, ours.steps_of_epoch)


@pytest.mark.slow
def test_14_is_seen_in_opacus(opacus):
    def epsilon(*settings):
        names = ("noise_multiplier", "sampling_prob", "num_steps", "delta")
        return opacus.epsilon(**dict(zip(names, settings, strict=True)))

    def steps_of_epoch(batches):
        return opacus.steps_of_epoch(batches=batches)

    assert epsilon(1.0, 0.01, 1, 0.1) == pytest.approx(-0.10, abs=0.005)
    assert steps_of_epoch(93) == 92
    assert not checks.epsilon_and_steps_are_whole(epsilon, steps_of_epoch)


def test_15_empty_batch_is_a_step():
    assert checks.empty_batches_are_steps(ours.num_batches)


@pytest.mark.slow
def test_15_is_seen_in_opacus(opacus):
    def num_batches(steps):
        return opacus.distributed_batches(steps=steps)

    assert not checks.empty_batches_are_steps(num_batches)


def test_16_hard_settings_have_an_answer():
    assert checks.hard_settings_have_answers(ours.epsilon)


@pinned("prv-accountant")
def test_16_is_seen_in_prv_accountant():
    gives_up, too_small, *negative = checks.HARD
    with pytest.raises(RuntimeError, match="Discrete mean differs"):
        peers.prv_epsilon(*gives_up)
    with pytest.raises(ValueError, match="Floating point errors will dominate"):
        peers.prv_epsilon(*too_small)
    assert all(peers.prv_epsilon(*each) < 0 for each in negative)


def test_17_secure_noise_needs_nothing_else():
    assert checks.secure_noise_is_there(lambda: ours.discrete(2.0**-10), 2.0**-10)


@pytest.mark.slow
def test_17_is_seen_in_opacus(opacus):
    with pytest.raises(PeerError, match="you must install the torchcsprng package"):
        opacus.secure()


def test_18_norms_know_parameters_that_are_used_twice():
    assert checks.shared_layer_is_measured(
        lambda: ours.shared_layer("bookkeeping"), lambda: ours.shared_layer("vmap")
    )


@pytest.mark.slow
def test_18_is_seen_in_opacus(opacus):
    with pytest.raises(PeerError, match="NotImplementedError: Parameter tying"):
        opacus.shared_layer()


def test_19_nothing_that_is_asked_for_is_ignored():
    assert checks.refuses(ours.misspelt, TypeError)
    assert checks.refuses(ours.whole_number, (TypeError, ValueError))


@pytest.mark.slow
def test_19_is_seen_in_opacus(opacus):
    assert not checks.refuses(opacus.misspelt, PeerError)


def batch_norm(params, rows):
    """Return a loss of all rows, each less the mean of all."""
    centred = rows - rows.mean(axis=0)
    return jnp.sum(params * centred / jnp.sqrt(rows.var(axis=0) + 1e-5))


ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def test_20_loss_that_mixes_examples_is_refused():
    def train():
        ours.batch_norm(batch_norm, jnp.ones(3), ROWS)

    assert checks.refuses(train, clipping.independence.ExampleDependenceError)


@pinned("jax-privacy")
def test_20_is_seen_in_jax_privacy():
    def train():
        peers.jax_privacy_batch_norm(batch_norm, jnp.ones(3), ROWS)

    assert not checks.refuses(train, Exception)


@pinned("jax-privacy")
@needs_keras
def test_keras_models_of_jax_privacy_may_normalise_over_the_batch():
    assert not checks.refuses(peers.keras_batch_norm, Exception)


@pytest.mark.slow
def test_opacus_refuses_to_normalise_over_the_batch(opacus):
    with pytest.raises(PeerError, match="BatchNorm cannot support training"):
        opacus.batch_norm()


@needs_orbax
def test_21_resumed_run_is_one_that_was_never_stopped(tmp_path):
    def run(stop):
        return ours.run(stop, tmp_path / str(stop))

    assert checks.goes_on_as_if_never_stopped(run)


@pytest.mark.slow
def test_21_is_seen_in_opacus(opacus):
    def run(stop):
        return np.array(opacus.run(stop=stop))

    assert not checks.goes_on_as_if_never_stopped(run)
    steps = np.diff(run(2), axis=0, prepend=0)
    np.testing.assert_allclose(steps[2:], steps[:2], atol=1e-6)


def too_little_noise(target_epsilon, sampling_prob):
    """Return settings whose epsilon is 0.05 above the target."""
    settings = {"sampling_prob": sampling_prob, "num_steps": 500, "delta": 1e-5}
    noise_multiplier = accounting.calibrate_noise_multiplier(
        target_epsilon=target_epsilon + 0.05, **settings
    )
    return {"noise_multiplier": float(noise_multiplier), **settings}


def test_22_noise_that_misses_the_target_is_refused():
    def overspend():
        ours.overspend(1.0, **too_little_noise(1.0, 0.01))

    assert checks.refuses(overspend, accounting.BudgetExceeded)
    assert ours.calibrated(1.0, 1e-5) <= 1.0


@pinned("jax-privacy")
@needs_keras
def test_22_is_seen_in_jax_privacy():
    noise_multiplier = too_little_noise(1.0, 0.01)["noise_multiplier"]
    for steps in (1, 4):

        def overspend(steps=steps):
            peers.keras_config(
                noise_multiplier=noise_multiplier, gradient_accumulation_steps=steps
            )

        assert not checks.refuses(overspend, ValueError)
    accumulated = accounting.exact_epsilon(
        noise_multiplier=noise_multiplier, sampling_prob=0.04, num_steps=500, delta=1e-5
    )
    assert accumulated > 4


def test_23_bounds_of_nothing_are_zero_and_arguments_are_left_alone():
    bound = ours.audit(checks.SIGNIFICANCE, 0.0, "clopper_pearson")
    assert checks.finds_nothing_in_nothing(bound)
    assert checks.leaves_its_arguments_alone(attacks.logit_scores)


@pytest.mark.slow
def test_23_is_seen_in_tensorflow_empirical_privacy(tensorflow_privacy):
    def bound(*scores, method):
        ins, outs = (each.tolist() for each in scores)
        given = {"significance": checks.SIGNIFICANCE, "method": method}
        return tensorflow_privacy.bound(in_scores=ins, out_scores=outs, **given)

    def score(logits, labels):
        given = {"logits": logits.tolist(), "labels": labels.tolist()}
        found = tensorflow_privacy.changed_by_score(**given)
        logits[:], labels[:] = found["logits"], found["labels"]

    methods = tensorflow_privacy.bound_methods()
    held = [
        method
        for method in methods
        if checks.finds_nothing_in_nothing(functools.partial(bound, method=method))
    ]
    assert (len(methods), held) == (5, ["clopper-pearson"])
    assert not checks.leaves_its_arguments_alone(score)
    # Ten first digits, drawn alike, would have 200 secrets each.
    assert tensorflow_privacy.first_digits(count=2_000)[7:] == [0, 0, 0]


def test_24_gaussian_bound_finds_nothing_in_nothing():
    bound = ours.audit(checks.SIGNIFICANCE, 1e-5, "gdp")
    assert checks.finds_nothing_in_nothing(bound)


@pinned("jax-privacy")
def test_24_is_seen_in_jax_privacy():
    bound = peers.jax_privacy_gaussian_audit(checks.SIGNIFICANCE, 1e-5)
    assert not checks.finds_nothing_in_nothing(bound)


BAD = (-1.0, math.nan)


def test_25_noise_is_in_range_and_of_no_global_seed():
    for stddev in BAD:
        assert checks.refuses(lambda s=stddev: ours.noise_of(s), ValueError)
    assert checks.never_the_same_noise([ours.seeded(), ours.seeded()])


@pinned("jax-privacy")
def test_25_is_seen_in_jax_privacy():
    for stddev in BAD:
        assert not checks.refuses(
            lambda s=stddev: peers.jax_privacy_noise(s), Exception
        )
    seeded = [peers.jax_privacy_seeded() for _ in range(2)]
    assert not checks.never_the_same_noise(seeded)


@pytest.mark.slow
def test_25_is_seen_in_opacus(opacus):
    assert [opacus.make(noise_multiplier=bad) for bad in BAD] == ["-1.0", "nan"]


def test_26_per_example_values_keep_their_shape():
    assert checks.axis_of_one_is_kept(ours.shape_of_aux)
    assert checks.never_the_same_noise(ours.noise_of_leaves())


@pinned("jax-privacy")
def test_26_is_seen_in_jax_privacy():
    assert not checks.axis_of_one_is_kept(peers.jax_privacy_shape_of_aux)


# The table of them.


def test_each_defect_is_tested_once_on_dpjax_and_on_each_peer_that_has_it():
    assert [each.number for each in defects_list.DEFECTS] == list(range(1, 27))
    assert sorted(defects_table.test_names()) == list(range(1, 27))
    claimed = {
        (each.number, sighting.peer)
        for each in defects_list.DEFECTS
        for sighting in each.sightings
        if sighting.seen == "yes"
    }
    assert defects_table.twin_names() == claimed


def test_readme_shows_the_table():
    marks = defects_table.MARKS
    block = table.read_block(defects_table.README.read_text(), marks)
    if block is None:
        pytest.skip("README has no such block")
    assert block == defects_table.render()
