import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from released import (
    BATCH_SIZE,
    PARAMS,
    assert_normal,
    flat,
    normal_rows,
    per_example_gradients,
    unit_noise,
)
from scipy import stats

from dpjax import optimizers
from dpjax.optimizers import segments

pytestmark = pytest.mark.filterwarnings('ignore:"seed" is deprecated')

BATCHES = [normal_rows(PARAMS, seed=seed) for seed in range(3)]
ONLY_W = {"w": True, "b": False}
GROUPS = {"w": "kernel", "b": "bias"}


def trajectory(optimizer, batches=BATCHES, params=PARAMS, transform=lambda fn: fn):
    """Return params after each step."""
    state, found = optimizer.init(params), []
    update = transform(optimizer.update)
    for batch in batches:
        updates, state = update(batch, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


# Code written for optax.contrib runs with the import swapped.

DROP_IN = {
    "plain": (0.1, 0.5, 0.0, 7),
    "nothing clipped": (0.1, 1e9, 0.0, 7),
    "momentum": (0.1, 0.5, 0.0, 7, 0.9),
    "nesterov": (0.1, 0.5, 0.0, 7, 0.9, True),
    "momentum zero": (0.1, 0.5, 0.0, 7, 0.0),
    "schedule": (optax.linear_schedule(0.1, 0.0, 3), 0.5, 0.0, 7, 0.9),
}


@pytest.mark.parametrize("arguments", DROP_IN.values(), ids=DROP_IN)
def test_swapped_import_gives_the_same_numbers_without_noise(arguments):
    ours = trajectory(optimizers.dpsgd(*arguments))
    theirs = trajectory(optax.contrib.dpsgd(*arguments))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_swapped_import_gives_the_same_numbers_under_jit():
    arguments = DROP_IN["nesterov"]
    ours = trajectory(optimizers.dpsgd(*arguments), transform=jax.jit)
    theirs = trajectory(optax.contrib.dpsgd(*arguments), transform=jax.jit)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_swapped_import_gives_the_same_numbers_for_the_aggregate():
    arguments = (0.5, 0.0, jax.random.key(7))
    ours = optimizers.differentially_private_aggregate(*arguments)
    theirs = optax.contrib.differentially_private_aggregate(*arguments)
    chex.assert_trees_all_close(
        trajectory(ours), trajectory(theirs), rtol=1e-5, atol=1e-6
    )


def test_swapped_import_gives_the_same_numbers_in_bfloat16():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    batches = [normal_rows(params, seed=seed) for seed in range(2)]
    arguments = DROP_IN["momentum"]
    ours = trajectory(optimizers.dpsgd(*arguments), batches, params)
    theirs = trajectory(optax.contrib.dpsgd(*arguments), batches, params)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    # optax.contrib sums in bfloat16, which keeps 8 bits.
    chex.assert_trees_all_close(ours, theirs, rtol=2**-7, atol=2**-9)


def test_swapped_import_gives_the_same_distribution_with_noise():
    params = jnp.zeros(3_000)
    zeros = jnp.zeros((BATCH_SIZE, 3_000))

    def released(module):
        optimizer = module.dpsgd(0.1, 0.5, 1.3, 11)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        return np.asarray(updates, np.float64)

    ours, theirs = released(optimizers), released(optax.contrib)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    assert stats.ks_2samp(ours * 2 / 3, theirs).pvalue < 1e-6
    assert stats.ks_2samp(ours * 3 / 2, theirs).pvalue < 1e-6
    assert_normal(ours, 0.1 * 1.3 * 0.5 / BATCH_SIZE)
    assert_normal(theirs, 0.1 * 1.3 * 0.5 / BATCH_SIZE)


def positions(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def test_positional_arguments_stand_where_optax_has_them():
    theirs = positions(optax.contrib.dpsgd)
    assert theirs[3] == "seed"
    assert positions(optimizers.dpsgd) == [*theirs[:3], "key", *theirs[4:]]
    assert positions(optimizers.differentially_private_aggregate) == positions(
        optax.contrib.differentially_private_aggregate
    )
    privacy = [*theirs[:3], "key"]
    adam, adamw = positions(optax.adam), positions(optax.adamw)
    assert positions(optimizers.dpadam) == privacy + adam[1:]
    assert positions(optimizers.dpadamw) == privacy + adamw[1:]
    assert positions(optimizers.privatize) == ["optimizer", *privacy[1:]]


def test_seed_is_taken_by_keyword_as_optax_does():
    old = optimizers.dpsgd(0.1, 0.5, 1.0, seed=7, momentum=0.9)
    new = optimizers.dpsgd(0.1, 0.5, 1.0, 7, 0.9)
    chex.assert_trees_all_equal(trajectory(old), trajectory(new))


# Any optimizer on private averages.


@pytest.mark.parametrize(
    ("private", "plain"),
    [
        (
            optimizers.dpadam(1e-2, 0.5, 1.1, 3, 0.8, 0.99, 1e-6, nesterov=True),
            optax.adam(1e-2, 0.8, 0.99, 1e-6, nesterov=True),
        ),
        (
            optimizers.dpadamw(1e-2, 0.5, 1.1, 3, 0.8, weight_decay=0.3, mask=ONLY_W),
            optax.adamw(1e-2, 0.8, weight_decay=0.3, mask=ONLY_W),
        ),
        (
            optimizers.privatize(optax.rmsprop(1e-2), 0.5, 1.1, 3),
            optax.rmsprop(1e-2),
        ),
    ],
    ids=["dpadam", "dpadamw", "privatize"],
)
def test_private_optimizer_is_the_plain_one_on_private_averages(private, plain):
    aggregate = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
    chained = optax.chain(aggregate, plain)
    chex.assert_trees_all_equal(trajectory(private), trajectory(chained))


def test_privacy_settings_reach_the_aggregate():
    options = {"expected_batch_size": 20, "sampling_prob": 0.25}
    aggregate = optimizers.differentially_private_aggregate(0.5, 1.1, 3, **options)
    average, _ = aggregate.update(BATCHES[0], aggregate.init(PARAMS), PARAMS)
    sgd = optimizers.dpsgd(1.0, 0.5, 1.1, 3, **options)
    identity = optimizers.privatize(optax.scale(-1.0), 0.5, 1.1, 3, **options)
    for optimizer in (sgd, identity):
        updates, state = optimizer.update(BATCHES[0], optimizer.init(PARAMS), PARAMS)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.negative, average))
        assert segments.read(state[0].segments) == [(1.1, 0.25, 1)]
    for make in (optimizers.dpadam, optimizers.dpadamw):
        optimizer = make(1.0, 0.5, 1.1, 3, **options)
        _, state = optimizer.update(BATCHES[0], optimizer.init(PARAMS), PARAMS)
        assert segments.read(state[0].segments) == [(1.1, 0.25, 1)]


def test_chain_puts_what_follows_behind_the_noise():
    plain = optimizers.dpsgd(0.1, 0.5, 1.0, 3)
    chained = optax.chain(plain, optax.clip(2**-10))
    updates, _ = chained.update(BATCHES[0], chained.init(PARAMS), PARAMS)
    expected, _ = plain.update(BATCHES[0], plain.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(flat(updates), flat(expected).clip(-(2**-10), 2**-10))
    assert np.abs(flat(expected)).max() > 2**-10


def test_accumulation_of_updates_belongs_inside():
    inner = optax.MultiSteps(optax.sgd(1.0), every_k_schedule=2)
    private = optimizers.privatize(inner.gradient_transformation(), 0.5, 1.1, 3)
    average = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
    first, second, _ = trajectory(private)
    chex.assert_trees_all_equal(first, PARAMS)
    state, averages = average.init(PARAMS), []
    for batch in BATCHES[:2]:
        update, state = average.update(batch, state, PARAMS)
        averages.append(update)
    expected = jax.tree.map(lambda p, a, b: p - (a + b) / 2, PARAMS, *averages)
    chex.assert_trees_all_close(second, expected, rtol=1e-5, atol=1e-6)


# masked and multi_transform: inside, not outside.


def test_masked_works_inside_privatize():
    private = optimizers.privatize(optax.masked(optax.sgd(0.1), ONLY_W), 0.5, 1.1, 3)
    average = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
    expected, _ = average.update(BATCHES[0], average.init(PARAMS), PARAMS)
    updates, _ = private.update(BATCHES[0], private.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(updates["w"], -0.1 * expected["w"])
    chex.assert_trees_all_equal(updates["b"], expected["b"])


def test_multi_transform_works_inside_privatize():
    inner = optax.multi_transform(
        {"kernel": optax.sgd(0.1), "bias": optax.set_to_zero()}, GROUPS
    )
    private = optimizers.privatize(inner, 0.5, 1.1, 3)
    average = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
    expected, _ = average.update(BATCHES[0], average.init(PARAMS), PARAMS)
    updates, _ = private.update(BATCHES[0], private.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(updates["w"], -0.1 * expected["w"])
    chex.assert_trees_all_equal(updates["b"], jnp.zeros(3))


def nested(params):
    return {"model": params, "head": jnp.ones(2)}


PRIVATE = optimizers.dpsgd(0.1, 0.5, 1.1, 3)
OUTSIDE = {
    "one leaf masked": (optax.masked(PRIVATE, ONLY_W), PARAMS),
    "mask by function": (
        optax.masked(PRIVATE, lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)),
        PARAMS,
    ),
    "subtree masked": (
        optax.masked(PRIVATE, {"model": False, "head": True}),
        nested(PARAMS),
    ),
    "all masked": (optax.masked(PRIVATE, {"w": False, "b": False}), PARAMS),
    "private and plain group": (
        optax.multi_transform({"kernel": PRIVATE, "bias": optax.sgd(0.1)}, GROUPS),
        PARAMS,
    ),
    "two private groups": (
        optax.multi_transform({"kernel": PRIVATE, "bias": PRIVATE}, GROUPS),
        PARAMS,
    ),
    "in a chain": (
        optax.chain(optax.masked(PRIVATE, ONLY_W), optax.scale(0.5)),
        PARAMS,
    ),
}


@pytest.mark.parametrize(("optimizer", "params"), OUTSIDE.values(), ids=OUTSIDE)
def test_half_a_gradient_is_refused_by_a_sentence_that_names_the_way_out(
    optimizer, params
):
    message = r"masked-out leaf at params.*inside, as privatize\(optax\.masked"
    with pytest.raises(ValueError, match=message):
        optimizer.init(params)


def test_half_a_gradient_is_refused_in_update_too():
    masked = optax.masked(PRIVATE, ONLY_W)
    state = optax.MaskedState(PRIVATE.init(PARAMS))
    with pytest.raises(ValueError, match=r"masked-out leaf at updates\['b'\]"):
        masked.update(BATCHES[0], state, PARAMS)


def test_mask_that_masks_nothing_is_legal_outside():
    masked = optax.masked(PRIVATE, {"w": True, "b": True})
    chex.assert_trees_all_equal(trajectory(masked), trajectory(PRIVATE))


# inject_hyperparams and schedules.


def test_injected_hyperparameters_give_the_same_run():
    injected = optax.inject_hyperparams(optimizers.dpsgd)(0.1, 0.5, 1.25, 7, 0.9)
    plain = optimizers.dpsgd(0.1, 0.5, 1.25, 7, 0.9)
    chex.assert_trees_all_close(
        trajectory(injected, transform=jax.jit), trajectory(plain), rtol=1e-4, atol=1e-5
    )


def test_injected_schedules_are_followed_and_what_was_used_is_counted():
    schedules = {
        "learning_rate": lambda count: 0.5 / (1 + count),
        "l2_norm_clip": lambda count: 0.25 * (1 + count),
        "noise_multiplier": lambda count: 1.0 + 0.5 * (count // 2),
    }
    optimizer = optax.inject_hyperparams(optimizers.dpsgd)(
        **schedules, key=7, expected_batch_size=4, sampling_prob=0.25
    )
    update = jax.jit(optimizer.update)
    state = optimizer.init(PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, BATCHES[0])
    for count in range(4):
        before = state.inner_state[0]
        updates, state = update(zeros, state, PARAMS)
        rate, clip_norm, multiplier = (
            float(schedule(count)) for schedule in schedules.values()
        )
        expected = -rate * multiplier * clip_norm / 4 * unit_noise(before, PARAMS)
        np.testing.assert_allclose(flat(updates), expected, rtol=1e-5)
    counted = segments.read(state.inner_state[0].segments)
    assert counted == [(1.0, 0.25, 2), (1.5, 0.25, 2)]


def test_hyperparameters_changed_by_hand_are_counted_as_changed():
    optimizer = optax.inject_hyperparams(optimizers.dpsgd)(0.1, 0.5, 1.0, 7)
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(BATCHES[0], state, PARAMS)
    state.hyperparams["noise_multiplier"] = jnp.float32(0.75)
    _, state = optimizer.update(BATCHES[0], state, PARAMS)
    counted = segments.read(state.inner_state[0].segments)
    assert counted == [(1.0, 1.0, 1), (0.75, 1.0, 1)]


def test_injection_into_low_precision_params_asks_for_exact_hyperparameters():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    arguments = (0.1, 0.5, 1.1, 7)
    sampled = {"expected_batch_size": 3, "sampling_prob": 0.3}
    rounding = optax.inject_hyperparams(optimizers.dpsgd)
    with pytest.raises(TypeError, match=r"hyperparam_dtype=jnp\.float32"):
        rounding(*arguments, **sampled).init(params)
    exact = optax.inject_hyperparams(optimizers.dpsgd, hyperparam_dtype=jnp.float32)
    optimizer = exact(*arguments, **sampled)
    _, state = optimizer.update(normal_rows(params), optimizer.init(params), params)
    (row,) = segments.read(state.inner_state[0].segments)
    assert row == (float(np.float32(1.1)), float(np.float32(0.3)), 1)


def test_gradient_computed_inside_is_passed_through_every_wrapper():
    grads = per_example_gradients()
    wrapped = optax.chain(
        optax.inject_hyperparams(optimizers.dpsgd)(0.1, 0.5, 1.0, 7), optax.identity()
    )

    def loss_of_row(params, row):
        return sum(jnp.vdot(params[name], row[name]) for name in params)

    state = wrapped.init(PARAMS)
    inside, _ = jax.jit(
        lambda state, params: wrapped.update(
            None, state, params, loss_fn=loss_of_row, batch=grads
        )
    )(state, PARAMS)
    outside, _ = wrapped.update(grads, state, PARAMS)
    chex.assert_trees_all_close(inside, outside, rtol=1e-4, atol=1e-6)
