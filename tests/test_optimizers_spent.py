import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dp_accounting import rdp
from released import PARAMS, normal_rows

from dpjax import accounting, optimizers
from dpjax.accounting.events import Relation, take_apart
from dpjax.accounting.renyi import of_events
from dpjax.optimizers import PrivacySpent, privacy_spent, segments

DELTA = 1e-5
GRADS = normal_rows(PARAMS)
SAMPLED = {"expected_batch_size": 10, "sampling_prob": 0.01}
PRIVATE = optimizers.dpsgd(0.1, 0.5, 1.1, 3, **SAMPLED)


def state_with(*rows):
    """Return the state of an optimizer that has run (noise, sampling, steps)."""
    table = segments.empty()
    for row, (noise_multiplier, sampling_prob, steps) in enumerate(rows):
        words = segments.settings_words(noise_multiplier, sampling_prob)
        table = segments.count_step(table, words)
        table = table._replace(steps=table.steps.at[row].set(jnp.uint32(steps)))
    total = jnp.uint32(sum(steps for _, _, steps in rows))
    return optimizers.PrivateAggregateState(jnp.zeros(2, jnp.uint32), total, table)


def plain_count(*rows):
    """Return the event of the same steps, counted on the host."""
    return dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    sampling_prob, dp_accounting.GaussianDpEvent(noise_multiplier)
                ),
                steps,
            )
            for noise_multiplier, sampling_prob, steps in rows
        ]
    )


HISTORIES = {
    "one segment": [(1.1, 0.01, 500)],
    "ten million steps": [(60.0, 1e-3, 10**7)],
    "numbers that no float32 holds": [(1 / 3, 0.1, 1), (1e3, 1e-12, 2**24 + 1)],
    "several segments": [(1.1, 0.01, 100), (0.8, 0.02, 7), (2.0, 0.5, 3)],
    "without amplification": [(5.0, 1.0, 30)],
}


@pytest.mark.parametrize("rows", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_privacy_spent_equals_a_plain_count_of_the_same_steps(rows, accountant):
    spent = privacy_spent(state_with(*rows), DELTA, accountant=accountant)
    expected = accounting.event_epsilon(
        plain_count(*rows), DELTA, accountant=accountant
    )
    assert spent.epsilon == pytest.approx(float(expected), rel=1e-6)
    assert spent.steps == sum(steps for _, _, steps in rows)
    assert (spent.delta, spent.method) == (DELTA, expected.method)


@pytest.mark.parametrize("rows", HISTORIES.values(), ids=HISTORIES)
def test_privacy_spent_equals_what_a_second_library_says(rows):
    event = plain_count(*rows)
    # Orders without a fraction, at which its divergences are right, and close by: the
    # least epsilon is next to that at any order.
    orders = range(2, 257)
    library = rdp.RdpAccountant(orders).compose(event)
    ours = of_events.divergences(
        take_apart(event), np.array(orders, float), Relation.ADD_OR_REMOVE_ONE
    )
    np.testing.assert_allclose(ours, library.rdp, rtol=1e-6)
    spent = privacy_spent(state_with(*rows), DELTA, accountant="rdp")
    assert spent.epsilon <= rdp.RdpAccountant().compose(event).get_epsilon(DELTA)
    expected, _ = rdp.compute_epsilon(orders, ours, DELTA)
    assert spent.epsilon <= expected


def test_steps_taken_inside_a_compiled_scan_are_those_that_are_spent():
    @jax.jit
    def run(state):
        def one(state, _):
            return PRIVATE.update(GRADS, state, PARAMS)[1], None

        return jax.lax.scan(one, state, length=50)[0]

    spent = privacy_spent(run(run(PRIVATE.init(PARAMS))), DELTA)
    expected = accounting.exact_epsilon(
        noise_multiplier=1.1, sampling_prob=0.01, num_steps=100, delta=DELTA
    )
    assert spent == PrivacySpent(float(expected), DELTA, 100, "exact")


def test_steps_under_changing_hyperparameters_are_those_that_are_spent():
    optimizer = optax.inject_hyperparams(optimizers.dpsgd)(
        0.1, 0.5, lambda count: 1.0 + 0.5 * (count % 3), 3, **SAMPLED
    )

    @jax.jit
    def run(state):
        def one(state, _):
            return optimizer.update(GRADS, state, PARAMS)[1], None

        return jax.lax.scan(one, state, length=20)[0]

    spent = privacy_spent(run(optimizer.init(PARAMS)), DELTA)
    q = float(jnp.float32(0.01))
    counted = plain_count((1.0, q, 7), (1.5, q, 7), (2.0, q, 6))
    expected = accounting.event_epsilon(counted, DELTA)
    assert spent.epsilon == pytest.approx(float(expected), rel=1e-6)
    assert spent.steps == 20


def test_full_table_spends_at_least_what_was_run():
    rows = [(2.0 - i / 100, 0.01 + i / 1000, 1) for i in range(50)]
    table = segments.empty()
    for noise_multiplier, sampling_prob, _ in rows:
        words = segments.settings_words(noise_multiplier, sampling_prob)
        table = segments.count_step(table, words)
    state = state_with()._replace(step=jnp.uint32(50), segments=table)
    for accountant in ("exact", "pld", "rdp"):
        plain = accounting.event_epsilon(
            plain_count(*rows), DELTA, accountant=accountant
        )
        spent = privacy_spent(state, DELTA, accountant=accountant).epsilon
        assert plain <= spent <= 1.5 * plain


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_nothing_is_spent_before_the_first_step(accountant):
    spent = privacy_spent(PRIVATE.init(PARAMS), DELTA, accountant=accountant)
    assert (spent.epsilon, spent.steps) == (0.0, 0)


@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_one_step_without_noise_spends_everything(accountant):
    state = state_with((1.1, 0.01, 5), (0.0, 0.01, 1))
    assert privacy_spent(state, DELTA, accountant=accountant).epsilon == math.inf


def test_without_sampling_prob_nothing_is_amplified():
    optimizer = optimizers.dpadam(0.1, 0.5, 2.0, 3, expected_batch_size=10)
    _, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    expected = accounting.event_epsilon(dp_accounting.GaussianDpEvent(2.0), DELTA)
    assert privacy_spent(state, DELTA).epsilon == pytest.approx(expected, rel=1e-9)


def test_result_is_made_of_plain_numbers():
    spent = privacy_spent(state_with((1.1, 0.01, 5)), DELTA, accountant="rdp")
    assert [type(field) for field in spent] == [float, float, int, str]


# Where the state is.

FOUND = {
    "alone": optimizers.differentially_private_aggregate(0.5, 1.1, 3, **SAMPLED),
    "dpsgd": PRIVATE,
    "deep in a chain": optax.chain(
        optax.chain(optax.clip(1.0), optax.chain(PRIVATE)), optax.scale(0.5)
    ),
    "named": optax.named_chain(("z", PRIVATE), ("a", optax.apply_every(2))),
    "injected": optax.inject_hyperparams(optimizers.dpsgd)(0.1, 0.5, 1.1, 3, **SAMPLED),
    "accumulating behind": optimizers.privatize(
        optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
        *(0.5, 1.1, 3),
        **SAMPLED,
    ),
}


@pytest.mark.parametrize("optimizer", FOUND.values(), ids=FOUND)
def test_private_state_is_found_anywhere(optimizer):
    _, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    spent = privacy_spent(state, DELTA, accountant="rdp")
    expected = accounting.rdp_epsilon(
        noise_multiplier=1.1, sampling_prob=0.01, num_steps=1, delta=DELTA
    )
    assert spent.steps == 1
    # inject_hyperparams rounds the settings to float32.
    assert spent.epsilon == pytest.approx(float(expected), rel=1e-6)


REFUSED = {
    "none": (optax.adam(0.1), "got 0 in a state"),
    "two": (optax.chain(PRIVATE, PRIVATE), "Several on one batch have no sum"),
    "MultiSteps": (optax.MultiSteps(PRIVATE, 4), "got MultiSteps before the noise"),
    "apply_every": (
        optax.chain(optax.apply_every(4), PRIVATE),
        "got apply_every before the noise",
    ),
    "apply_if_finite": (
        optax.apply_if_finite(PRIVATE, 3),
        "got ApplyIfFinite before the noise",
    ),
}


@pytest.mark.parametrize(("optimizer", "cause"), REFUSED.values(), ids=REFUSED)
def test_state_that_has_no_sound_account_is_refused_by_its_cause(optimizer, cause):
    with pytest.raises(ValueError, match=cause):
        privacy_spent(optimizer.init(PARAMS), DELTA)


def test_traced_state_is_a_typed_error():
    state = PRIVATE.init(PARAMS)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda state: privacy_spent(state, DELTA).epsilon)(state)


def test_counters_that_contradict_each_other_are_refused():
    state = state_with((1.1, 0.01, 5))._replace(step=jnp.uint32(6))
    with pytest.raises(ValueError, match="steps=5 and step=6"):
        privacy_spent(state, DELTA)


@pytest.mark.parametrize("delta", [1.0, -0.1, math.nan, math.inf])
def test_delta_must_be_at_least_zero_and_below_one(delta):
    with pytest.raises(ValueError, match="got delta="):
        privacy_spent(state_with((1.1, 0.01, 5)), delta)
    with pytest.raises(ValueError, match="got delta="):
        privacy_spent(PRIVATE.init(PARAMS), delta)


def test_unknown_accountant_is_refused():
    with pytest.raises(ValueError, match="'pld'"):
        privacy_spent(state_with((1.1, 0.01, 5)), DELTA, accountant="moments")


def test_states_of_several_runs_in_one_are_refused():
    state = optimizers.dpsgd(0.1, 0.5, 1.1, 3).init(PARAMS)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    with pytest.raises(ValueError, match="one run, got states of runs"):
        privacy_spent(stacked, 1e-5)
