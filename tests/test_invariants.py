"""What must always hold: each test carries the name of its line in the design.

The lines on sensitivity, precision, examples that are not finite, and micro-batching
are tested beside the clipping that upholds them.
"""

import dataclasses
import functools
import inspect
import math
import pickle
import re

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from released import assert_normal, flat
from samplers import SAMPLERS

import dpjax
from dpjax import clipping, noise, optimizers, sampling
from dpjax.clipping import rules
from dpjax.mechanism import DPSGD, DPDiscreteSGD
from dpjax.optimizers import privacy_spent, segments

MULTIPLIER = 1.7
CLIP_NORM = 0.5
DIVISOR = 20
BATCH_SIZE = 6
PARAMS = {"w": jnp.zeros((40, 50)), "b": jnp.zeros(1000)}
PLAN = DPSGD(
    num_examples=100,
    expected_batch_size=DIVISOR,
    num_steps=6,
    l2_norm_clip=CLIP_NORM,
    noise_multiplier=MULTIPLIER,
)
SHUFFLED_PLAN = dataclasses.replace(PLAN, sampler=sampling.ShuffledEpochs())
PLANS = {
    name: dataclasses.replace(PLAN, sampler=sampler)
    for name, sampler in SAMPLERS.items()
}
PLANS["replaced"] = dataclasses.replace(
    SHUFFLED_PLAN, relation=dp_accounting.NeighboringRelation.REPLACE_ONE
)
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def loss_fn(params, x):
    """Return a linear loss of one example: its gradient is the example itself."""
    return sum(jnp.vdot(params[name], x[name]) for name in params)


def rows(batch_size, seed=0, dtype=jnp.float32):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            generator.normal(size=(batch_size, *leaf.shape)), dtype
        ),
        PARAMS,
    )


GRADS = rows(BATCH_SIZE)
PADDING = jnp.arange(BATCH_SIZE) < 4
clipped_grad = PLAN.clipped_grad(loss_fn)
in_microbatches = PLAN.clipped_grad(loss_fn, microbatch_size=2)


# 2. What is claimed is what is released.


def counted(state):
    """Return the noise multiplier that `privacy_spent` computes with."""

    def is_private(node):
        return isinstance(node, optimizers.PrivateAggregateState)

    (private,) = filter(is_private, jax.tree.leaves(state, is_leaf=is_private))
    (row,) = segments.read(private.segments)
    return row.noise_multiplier


def in_event(plan):
    """Return the noise multiplier of the event that a mechanism accounts for."""
    event = plan.event().event
    return getattr(event, "event", event).noise_multiplier  # In clip norms.


def released(make, updates=GRADS, params=PARAMS, scale=1.0, **extra_args):
    """Return the noise of a first step over sensitivity, and what is claimed of it.

    It is what the update has more than that of the same optimizer without noise, times
    the divisor; `scale` undoes what the optimizer does behind the noise.
    """
    found = []
    for noise_multiplier in (MULTIPLIER, 0.0):
        optimizer = make(noise_multiplier)
        state = optimizer.init(params)
        update, state = optimizer.update(updates, state, params, **extra_args)
        found.append((flat(update), state))
    (noisy, state), (clean, _) = found
    return (noisy - clean) * DIVISOR / CLIP_NORM * scale, counted(state)


def aggregate(noise_multiplier, l2_norm_clip=CLIP_NORM, **options):
    return optimizers.differentially_private_aggregate(
        l2_norm_clip, noise_multiplier, 3, expected_batch_size=DIVISOR, **options
    )


def adam(make, noise_multiplier):
    # With this eps the first step of Adam is its gradient over -1e6.
    return make(
        1.0, CLIP_NORM, noise_multiplier, 3, eps=1e6, expected_batch_size=DIVISOR
    )


def dpsgd(noise_multiplier, l2_norm_clip=CLIP_NORM):
    return optimizers.dpsgd(
        2.0, l2_norm_clip, noise_multiplier, 3, 0.9, expected_batch_size=DIVISOR
    )


def privatized(noise_multiplier):
    plain = optax.chain(optax.ema(0.5, debias=False), optax.scale(-2.0))
    return optimizers.privatize(
        plain, CLIP_NORM, noise_multiplier, 3, expected_batch_size=DIVISOR
    )


def injected(noise_multiplier):
    make = optax.inject_hyperparams(optimizers.dpsgd)
    return make(
        lambda count: 2.0 + count,
        lambda count: CLIP_NORM + count,
        noise_multiplier,
        3,
        expected_batch_size=DIVISOR,
    )


def inside_a_scan():
    optimizer = optimizers.dpsgd(
        1.0, CLIP_NORM, MULTIPLIER, 3, expected_batch_size=DIVISOR
    )
    nobody = jax.tree.map(jnp.zeros_like, GRADS)

    def step(state, _):
        update, state = optimizer.update(nobody, state, PARAMS)
        return state, update

    state, updates = jax.lax.scan(step, optimizer.init(PARAMS), length=3)
    return flat(updates) * DIVISOR / CLIP_NORM, counted(state)


def by_plan(plan):
    """Return the same for a mechanism."""

    def make(noise_multiplier):
        silent = dataclasses.replace(plan, noise_multiplier=noise_multiplier)
        return silent.optimizer(optax.scale(1.0), 3)

    grads = clipped_grad(PARAMS, GRADS, mask=PADDING)
    noise_over_clip_norm, _ = released(make, grads)
    return noise_over_clip_norm, in_event(plan)


def discrete(rounding):
    """Return the same for noise on a grid, so fine that it adds 0.1 % to the clip."""
    plan = DPDiscreteSGD(
        num_examples=100,
        expected_batch_size=DIVISOR,
        num_steps=6,
        l2_norm_clip=CLIP_NORM,
        noise_multiplier=MULTIPLIER,
        rounding=rounding,
    )

    def make(noise_multiplier):
        silent = dataclasses.replace(plan, noise_multiplier=noise_multiplier)
        return silent.optimizer(optax.scale(1.0), 3)

    grads = plan.clipped_grad(loss_fn)(PARAMS, GRADS, mask=PADDING)
    noise_over_clip_norm, _ = released(make, grads)
    return noise_over_clip_norm, math.sqrt(0.5 / plan.event().event.rho)


def low_precision():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    return released(aggregate, grads, params)


RELEASES = {
    "aggregate": lambda: released(aggregate),
    "dpsgd": lambda: released(dpsgd, scale=-1 / 2),
    "dpadam": lambda: released(functools.partial(adam, optimizers.dpadam), scale=-1e6),
    "dpadamw": lambda: released(
        functools.partial(adam, optimizers.dpadamw), scale=-1e6
    ),
    "privatize": lambda: released(privatized, scale=-1.0),
    "injected schedules": lambda: released(injected, scale=-1 / 2),
    "per layer": lambda: released(
        functools.partial(dpsgd, l2_norm_clip={"w": 0.3, "b": 0.4}), scale=-1 / 2
    ),
    "automatic": lambda: released(
        functools.partial(aggregate, l2_norm_clip=rules.Automatic(CLIP_NORM))
    ),
    "per-sample adaptive": lambda: released(
        functools.partial(aggregate, l2_norm_clip=rules.PerSampleAdaptive(CLIP_NORM))
    ),
    "bfloat16": low_precision,
    "ClippedGrads": lambda: released(aggregate, clipped_grad(PARAMS, GRADS)),
    "ClippedGrads in microbatches": lambda: released(
        aggregate, in_microbatches(PARAMS, GRADS)
    ),
    "ClippedGrads added up": lambda: released(
        aggregate, clipped_grad(PARAMS, GRADS) + clipped_grad(PARAMS, rows(6, 1))
    ),
    "computed inside, masked": lambda: released(
        aggregate, None, loss_fn=loss_fn, batch=GRADS, mask=PADDING
    ),
    "inside a scan": inside_a_scan,
    "mechanism, discrete noise": lambda: discrete("sum"),
    "mechanism, discrete noise, rounded examples": lambda: discrete("examples"),
    **{
        f"mechanism, {name}": functools.partial(by_plan, plan)
        for name, plan in PLANS.items()
    },
}


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_what_is_claimed_is_what_is_released(release):
    values, claimed = release()
    assert claimed > 0
    assert_normal(values, claimed)


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_claims_that_are_off_by_a_half_would_be_found(factor):
    values, claimed = released(aggregate)
    with pytest.raises(AssertionError):
        assert_normal(values * factor, claimed)


# 4. The divisor is a public constant, never the realised batch size.


@pytest.mark.parametrize("realised", [0, 1, 4, 6])
def test_divisor_is_a_public_constant_whatever_the_batch(realised):
    mask = jnp.arange(BATCH_SIZE) < realised
    optimizer = aggregate(0.0)
    grads = clipped_grad(PARAMS, GRADS, mask=mask)
    update, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    examples = [flat(jax.tree.map(lambda g, i=i: g[i], GRADS)) for i in range(realised)]
    total = sum(CLIP_NORM * row / np.linalg.norm(row) for row in examples)
    np.testing.assert_allclose(flat(update) * DIVISOR, total, rtol=1e-4, atol=1e-7)


@every_plan
def test_empty_batch_is_a_legal_step_of_pure_noise(plan):
    optimizer = plan.optimizer(optax.scale(1.0), 3)
    nobody = clipped_grad(PARAMS, GRADS, mask=jnp.zeros(BATCH_SIZE, bool))
    update, state = optimizer.update(nobody, optimizer.init(PARAMS), PARAMS)
    assert int(state[0].step) == 1
    assert_normal(flat(update), MULTIPLIER * CLIP_NORM / DIVISOR)


# 6. Noise is a pure function of (key, step, leaf path).


def noise_of(key=3, steps_before=0, updates=GRADS, params=PARAMS, wrap=lambda fn: fn):
    """Return the noise of one step: the update minus that of a zero multiplier."""
    noisy, clean = (
        optimizers.differentially_private_aggregate(
            CLIP_NORM, noise_multiplier, key, expected_batch_size=1
        )
        for noise_multiplier in (1.0, 0.0)
    )
    state = noisy.init(params)._replace(step=jnp.uint32(steps_before))
    update, _ = wrap(noisy.update)(updates, state, params)
    without, _ = clean.update(updates, state, params)
    return jax.tree.map(jnp.subtract, update, without)


def test_noise_is_a_pure_function_of_key_step_and_leaf_path():
    reference = noise_of()
    nobody = jax.tree.map(jnp.zeros_like, GRADS)
    only_b = {"b": GRADS["b"]}
    same = [
        noise_of(updates=nobody),
        noise_of(updates=rows(6, seed=1)),
        noise_of(wrap=jax.jit),
        noise_of(updates=clipped_grad(PARAMS, GRADS)),
        noise_of(updates=in_microbatches(PARAMS, GRADS)),
    ]
    for other in same:
        chex.assert_trees_all_close(other, reference, atol=1e-5)
    alone = noise_of(updates=only_b, params={"b": PARAMS["b"]})
    chex.assert_trees_all_close(alone["b"], reference["b"], atol=1e-5)


def test_no_two_steps_or_leaves_or_keys_share_noise():
    draws = [
        noise_of(key, steps_before)["b" if leaf else "w"].ravel()[:1000]
        for key in (3, 4)
        for steps_before in (0, 1, 10**7)
        for leaf in (0, 1)
    ]
    correlation = np.corrcoef(np.stack(draws).astype(np.float64))
    # The standard error of a correlation is 1 / sqrt(1000).
    off_diagonal = correlation[~np.eye(len(draws), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(1000)


def test_noise_and_sampling_draw_from_separate_domains():
    plan = dataclasses.replace(
        PLAN, num_examples=3000, expected_batch_size=1500, num_steps=10
    )
    key = noise.key_data(3)
    products = []
    for step, chunks in enumerate(plan.batches(key)):
        entered = np.zeros(3000)
        for chunk in chunks:
            entered[chunk.indices[chunk.mask]] = 1
        values = flat(noise.gaussian_noise(key, step, PARAMS, 1.0))
        products.append((entered - 0.5) * 2 * values)
    products = np.concatenate(products)
    # Signs times unit normals: a mean of zero with standard error 1 / sqrt(n).
    assert abs(products.mean()) < 5 / np.sqrt(products.size)
    assert_normal(products, 1.0)


def test_resumed_run_replays_bit_for_bit_what_the_uninterrupted_run_would_have_done():
    key = 5
    data = rows(PLAN.num_examples, seed=2)
    optimizer = PLAN.optimizer(optax.adam(0.1), key)

    @jax.jit
    def step(params, state, chunk):
        batch = jax.tree.map(lambda leaf: leaf[chunk.indices], data)
        grads = clipped_grad(params, batch, mask=chunk.mask)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(params, state, start_step, stop_step):
        steps = enumerate(PLAN.batches(key, start_step), start_step)
        for index, (chunk,) in steps:
            if index == stop_step:
                break
            params, state = step(params, state, chunk)
        return params, state

    start = PARAMS, optimizer.init(PARAMS)
    uninterrupted = run(*start, 0, 6)
    stopped = pickle.loads(pickle.dumps(run(*start, 0, 3)))
    chex.assert_trees_all_equal(run(*stopped, 3, 6), uninterrupted)


# 8. Sampler and event come from one object.


@pytest.mark.parametrize("expected_batch_size", [1, 12.5, 100])
def test_sampler_and_event_come_from_one_object(expected_batch_size):
    plan = dataclasses.replace(
        PLAN, expected_batch_size=expected_batch_size, num_steps=400
    )
    q = plan.event().event.sampling_probability
    assert q == plan.sampling_prob == expected_batch_size / 100
    assert plan.event().count == 400
    steps = list(plan.batches(3))
    assert len(steps) == 400
    drawn = sum(chunk.mask.sum() for chunks in steps for chunk in chunks)
    # A mean of 40,000 coins of probability q.
    assert abs(drawn / 40_000 - q) <= 5 * np.sqrt(q * (1 - q) / 40_000)
    optimizer = plan.optimizer(optax.sgd(0.1), 3)
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(clipped_grad(PARAMS, GRADS), state, PARAMS)
    assert segments.read(state[0].segments) == [(MULTIPLIER, q, 1)]


def test_where_sampling_is_not_what_is_accounted_epsilon_is_refused_or_unamplified():
    relations = dp_accounting.NeighboringRelation
    for sampler, relation in [
        (sampling.CyclicPoisson(2), relations.ADD_OR_REMOVE_ONE),
        (sampling.Deterministic(), relations.ADD_OR_REMOVE_ONE),
        (sampling.ShuffledEpochs(), relations.ADD_OR_REMOVE_ONE),
    ]:
        with pytest.raises(ValueError, match="sound account"):
            dataclasses.replace(PLAN, sampler=sampler, relation=relation)
    # Every example takes part in each of six batches: as it is without sampling.
    epochs = dataclasses.replace(SHUFFLED_PLAN, expected_batch_size=100)
    plain = dp_accounting.GaussianDpEvent(MULTIPLIER / np.sqrt(6))
    expected = float(dpjax.accounting.event_epsilon(plain, 1e-5))
    assert epochs.epsilon(1e-5) == pytest.approx(expected, rel=1e-9)
    optimizer = aggregate(MULTIPLIER / np.sqrt(6))
    _, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    assert privacy_spent(state, 1e-5).epsilon == pytest.approx(expected, rel=1e-9)


# 9. What cannot be private is refused with an error that names the cause.


def update_with(optimizer, updates=GRADS, **extra_args):
    return optimizer.update(updates, optimizer.init(PARAMS), PARAMS, **extra_args)


def mean_over_batch(params, x):
    hidden = x["b"] - x["b"].mean(axis=0)
    return jnp.sum(jnp.tanh(hidden @ params["b"]))


PRIVATE = aggregate(MULTIPLIER)
NOT_PRIVATE = {
    "half of a gradient": (
        lambda: optax.masked(PRIVATE, {"w": True, "b": False}).init(PARAMS),
        "leaves the rest unprotected",
    ),
    "gradients added up over batches": (
        lambda: optimizers.check_optimizer(optax.MultiSteps(PRIVATE, 2), PARAMS),
        "gradients of different batches",
    ),
    "gradients that were mixed": (
        lambda: optimizers.check_optimizer(
            optax.chain(optax.clip_by_global_norm(1.0), PRIVATE), PARAMS
        ),
        "mixes the gradients of different examples",
    ),
    "a loss that mixes examples": (
        lambda: dpjax.check_example_independence(mean_over_batch, PARAMS, GRADS),
        "mixes the examples of a batch",
    ),
    "gradients that were not clipped": (
        lambda: update_with(PRIVATE, clipping.summed_grad(loss_fn)(PARAMS, GRADS)),
        "sensitivity=inf",
    ),
    "a divisor that is private": (
        lambda: update_with(
            optimizers.dpsgd(0.1, CLIP_NORM, 1.0, 3), GRADS, mask=PADDING
        ),
        "is private and cannot be the divisor",
    ),
    "two releases with one account": (
        lambda: privacy_spent(optax.chain(PRIVATE, PRIVATE).init(PARAMS), 1e-5),
        "Several on one batch have no sum",
    ),
    "a sampler without an account": (
        lambda: dataclasses.replace(
            SHUFFLED_PLAN,
            relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        ),
        "that have a sound account",
    ),
}


@pytest.mark.parametrize(("attempt", "cause"), NOT_PRIVATE.values(), ids=NOT_PRIVATE)
def test_what_cannot_be_private_is_refused_with_an_error_that_names_the_cause(
    attempt, cause
):
    with pytest.raises(ValueError, match=cause):
        attempt()


# 10. Errors are typed, raised at build or trace time, and say what was expected.


def traced(optimizer, updates, **extra_args):
    """Trace an update: nothing is computed."""
    state = optimizer.init(PARAMS)
    return jax.eval_shape(
        lambda updates: optimizer.update(updates, state, PARAMS, **extra_args), updates
    )


WRONG = {
    "setting": (lambda: optimizers.dpsgd(0.1, -1.0, 1.0), ValueError),
    "kind of setting": (lambda: optimizers.dpsgd(0.1, 1.0, "1"), TypeError),
    "constant": (lambda: dataclasses.replace(PLAN, num_examples=0), ValueError),
    "kind of constant": (lambda: dataclasses.replace(PLAN, num_steps=0.5), TypeError),
    "shape": (
        lambda: traced(PRIVATE, {"w": GRADS["w"], "b": jnp.zeros((6, 7))}),
        ValueError,
    ),
    "length": (
        lambda: traced(PRIVATE, {"w": GRADS["w"], "b": jnp.zeros((5, 1000))}),
        ValueError,
    ),
    "dtype": (
        lambda: traced(PRIVATE, jax.tree.map(lambda g: g.astype(int), GRADS)),
        TypeError,
    ),
    "structure": (lambda: traced(PRIVATE, {"w": GRADS["w"]}), ValueError),
    "mask": (lambda: traced(PRIVATE, GRADS, mask=jnp.ones(5, bool)), ValueError),
    "sensitivity": (
        lambda: traced(aggregate(1.0, l2_norm_clip=0.7), clipped_grad(PARAMS, GRADS)),
        ValueError,
    ),
    "key under a trace": (
        lambda: jax.eval_shape(optimizers.dpsgd(0.1, 1.0, 1.0).init, PARAMS),
        TypeError,
    ),
    "state under a trace": (
        lambda: jax.eval_shape(
            lambda state: privacy_spent(state, 1e-5), PRIVATE.init(PARAMS)
        ),
        TypeError,
    ),
    "step": (lambda: PLAN.epsilon(1e-5, step=7), ValueError),
}


@pytest.mark.parametrize(("attempt", "error"), WRONG.values(), ids=WRONG)
def test_errors_are_typed_raised_early_and_say_what_was_expected_and_what_came(
    attempt, error
):
    with pytest.raises(error) as raised:
        attempt()
    assert re.match(r"Expected .+, got .+\.", str(raised.value))


def test_no_public_function_swallows_arguments_that_it_does_not_know():
    for name in dpjax.__all__:
        public = getattr(dpjax, name)
        if not inspect.isfunction(public):
            continue
        parameters = inspect.signature(public).parameters.values()
        assert all(p.kind is not p.VAR_KEYWORD for p in parameters), name
