"""A clip norm that follows a quantile, and what it costs."""

import itertools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from released import assert_normal, flat

from dpjax import clipping
from dpjax.accounting import event_epsilon
from dpjax.optimizers import (
    VotedGrads,
    adaptive_clip_aggregate,
    adaptive_clip_norm,
    check_optimizer,
    privacy_spent,
)

BATCH = 40
PARAMS = {"w": jnp.zeros((30, 40)), "b": jnp.zeros(800)}
Z, COUNT_NOISE = 1.3, 1.1
OWN = (Z**-2 - (2 * COUNT_NOISE) ** -2) ** -0.5


def rows(norms, seed=0):
    """Return per-example gradients of these norms."""
    generator = np.random.default_rng(seed)
    draws = {
        k: generator.normal(size=(len(norms), *v.shape)) for k, v in PARAMS.items()
    }
    squares = sum((v**2).reshape(len(norms), -1).sum(1) for v in draws.values())
    factors = np.asarray(norms) / np.sqrt(squares)
    return {
        k: jnp.asarray(v * factors.reshape(-1, *[1] * (v.ndim - 1)), jnp.float32)
        for k, v in draws.items()
    }


def make(noise_multiplier=Z, key=0, **options):
    options = {"count_noise": COUNT_NOISE, "expected_batch_size": BATCH} | options
    return adaptive_clip_aggregate(0.5, noise_multiplier, key, **options)


def step(optimizer, grads, **options):
    state = optimizer.init(PARAMS)
    return optimizer.update(grads, state, PARAMS, **options)


def share(state, start=0.5, rate=0.2, quantile=0.5):
    """Return the noised share that a first step must have seen."""
    return quantile - math.log(float(state.l2_norm_clip) / start) / rate


def test_average_and_count_together_are_one_gaussian_of_the_claimed_multiplier():
    grads = rows(np.linspace(0.1, 2, BATCH))
    noisy, _ = step(make(), grads)
    clean, _ = step(make(0.0), grads)
    noise = jax.tree.map(lambda a, b: (a - b) * BATCH / 0.5, noisy, clean)
    assert_normal(flat(noise), OWN)
    # The count's sensitivity is 1/2: precisions of independent Gaussians add up.
    together = (OWN**-2 + (COUNT_NOISE / 0.5) ** -2) ** -0.5
    assert together == pytest.approx(Z)


def test_the_count_has_the_noise_that_is_claimed():
    norms = np.linspace(0.1, 2, BATCH)
    optimizer, grads = make(), jnp.asarray(norms, jnp.float32)[:, None]
    state = optimizer.init(jnp.zeros(1))

    @jax.jit
    def clip_norm(_, key):
        private = state.private._replace(key=key)
        started = state._replace(private=private)
        return None, optimizer.update(grads, started)[1].l2_norm_clip

    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2000))
    _, clip_norms = jax.lax.scan(clip_norm, None, keys)
    shares = 0.5 - np.log(np.asarray(clip_norms, float) / 0.5) / 0.2
    draws = (shares - np.mean(norms <= 0.5)) * BATCH
    assert_normal(draws, COUNT_NOISE)


@pytest.mark.parametrize("norm", [0.0, 0.3, 5.0, 1e30, np.inf, np.nan])
def test_one_example_moves_the_count_by_a_half_at_most(norm):
    grads = rows([*np.linspace(0.1, 2, BATCH - 1), 1.0])
    grads = jax.tree.map(lambda leaf: leaf.at[-1].mul(norm), grads)
    everyone = jnp.ones(BATCH, bool)
    shares = [
        share(step(make(), grads, mask=mask)[1])
        for mask in (everyone, everyone.at[-1].set(False))
    ]
    assert abs(shares[0] - shares[1]) * BATCH == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_the_clip_norm_comes_to_the_quantile(quantile):
    optimizer = make(0.1, count_noise=1.0, target_quantile=quantile)

    def one(state, index):
        norms = jnp.exp(jax.random.normal(jax.random.key(index), (BATCH,)))
        grads = {"w": jnp.zeros((BATCH, 30, 40)), "b": jnp.zeros((BATCH, 800))}
        grads["b"] = grads["b"].at[:, 0].set(norms)
        _, state = optimizer.update(grads, state, PARAMS)
        return state, state.l2_norm_clip

    _, clip_norms = jax.lax.scan(one, optimizer.init(PARAMS), jnp.arange(150))
    wanted = {0.3: -0.524, 0.5: 0.0, 0.8: 0.842}[quantile]
    assert np.log(clip_norms[50:]).mean() == pytest.approx(wanted, abs=0.08)


def test_what_is_spent_is_the_whole_step():
    optimizer = optax.chain(make(sampling_prob=0.01), optax.sgd(0.1))
    check_optimizer(optimizer, PARAMS)
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = optimizer.update(rows([1.0, 2.0]), state, PARAMS)
    spent = privacy_spent(state, 1e-5)
    gaussian = dp_accounting.GaussianDpEvent(Z)
    one = dp_accounting.PoissonSampledDpEvent(0.01, gaussian)
    truth = event_epsilon(dp_accounting.SelfComposedDpEvent(one, 3), 1e-5)
    assert spent.epsilon == pytest.approx(truth, rel=1e-9)
    assert spent.steps == 3


def test_the_loss_may_be_given_and_its_clip_norm_is_the_states():
    def loss(params, x):
        return jnp.vdot(params, x)

    x = jnp.array([[3.0, 4.0], [0.0, 0.1]])
    optimizer = make(0.0, count_noise=0.0)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    average, later = optimizer.update(None, state, params, loss_fn=loss, batch=x)
    expected = 0.5 * x[0] / 5 + x[1]
    np.testing.assert_allclose(average * BATCH, expected, rtol=1e-5)
    assert share(later) == pytest.approx(0.5)
    again, _ = optimizer.update(None, later, params, loss_fn=loss, batch=x)
    np.testing.assert_allclose(again[0] * BATCH, later.l2_norm_clip * 0.6, rtol=1e-5)


def test_an_empty_batch_is_noise_and_no_vote():
    grads = rows(np.ones(4))
    average, state = step(make(), grads, mask=jnp.zeros(4, bool))
    assert np.isfinite(flat(average)).all()
    _, other = step(make(), rows(np.zeros(4)), mask=jnp.zeros(4, bool))
    assert float(state.l2_norm_clip) == float(other.l2_norm_clip)


def test_steps_and_keys_have_noise_of_their_own():
    optimizer = make()
    state = optimizer.init(PARAMS)
    found = []
    for _ in range(3):
        average, state = optimizer.update(rows([0.0]), state, PARAMS)
        found.append(flat(average))
    found.append(flat(step(make(key=1), rows([0.0]))[0]))
    for a, b in itertools.combinations(found, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"count_noise": Z / 2}, "count_noise"),
        ({"count_noise": -1.0}, "count_noise"),
        ({"target_quantile": 1.0}, "target_quantile"),
        ({"clip_learning_rate": 0.0}, "clip_learning_rate"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"expected_batch_size": 0}, "expected_batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(options, name):
    with pytest.raises(ValueError, match=f"got {name}="):
        make(**options)


def test_the_default_noise_of_the_count_is_a_twentieth_of_the_batch_or_the_multiplier():
    grads = rows(np.linspace(0.1, 2, BATCH))
    options = {"count_noise": None, "expected_batch_size": 2000}
    default, _ = step(make(**options), grads)
    stated, _ = step(make(**options | {"count_noise": 100.0}), grads)
    np.testing.assert_array_equal(flat(default), flat(stated))
    few, _ = step(make(count_noise=None), grads)
    stated, _ = step(make(count_noise=2.0), grads)
    np.testing.assert_array_equal(flat(few), flat(stated))


def test_a_sum_that_was_clipped_elsewhere_is_refused():
    grads = clipping.ClippedGrads(PARAMS, None, 0.5, 3)
    with pytest.raises(ValueError, match="ClippedGrads"):
        step(make(), grads)


def test_sums_of_chunks_with_their_votes_do_what_the_whole_batch_does():
    def loss(params, x):
        return jnp.vdot(params, x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    mask = jnp.array([True, True, False, True, True, True])
    optimizer, params = make(), jnp.zeros(3)
    state = optimizer.init(params)
    clip_norm = adaptive_clip_norm(optax.chain(optimizer, optax.sgd(1.0)).init(params))
    fn = clipping.clipped_grad(loss, 1.0)
    parts = [
        VotedGrads.of(fn(params, x[i], mask=m, l2_norm_clip=clip_norm), m, clip_norm)
        for i, m in ((slice(0, 3), mask[:3]), (slice(3, 6), mask[3:]))
    ]
    whole = {"loss_fn": loss, "batch": x, "mask": mask}
    expected, wanted = optimizer.update(None, state, params, **whole)
    found, later = optimizer.update(parts[0] + parts[1], state, params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert later.l2_norm_clip == wanted.l2_norm_clip
    assert adaptive_clip_norm(optax.sgd(1.0).init(params)) is None
