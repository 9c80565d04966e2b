"""Scaling before the clip, undone after the noise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax import optimizers
from dpjax.optimizers.scale_then_privatize import scale_then_privatize

PARAMS = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array(0.25)}
BATCH = 6


def loss(params, x, y):
    return 0.5 * (params["w"] @ x + params["b"] - y) ** 2


def data(batch=BATCH):
    x = jax.random.normal(jax.random.key(0), (batch, 3)) * jnp.array([30.0, 1.0, 0.1])
    return x, jax.random.normal(jax.random.key(1), (batch,))


def gradients(params=PARAMS):
    return dpjax.per_example_grad(loss)(params, *data())


def moments(value=1.0):
    return jax.tree.map(lambda leaf: jnp.full(jnp.shape(leaf), value), PARAMS)


def make(noise=0.0, clip=1.0, **options):
    settings = {"stability": 0.5, "key": 3} | options
    return scale_then_privatize(clip, noise, **settings)


def scale_of(moment, stability=0.5):
    return jax.tree.map(lambda v: 1 / np.sqrt(1 + np.asarray(v) / stability**2), moment)


def by_hand(rows, scale, clip):
    scaled = jax.tree.map(lambda g, s: np.asarray(g, np.float64) * s, rows, scale)
    squares = [np.square(g).reshape(BATCH, -1).sum(1) for g in jax.tree.leaves(scaled)]
    factor = np.minimum(1, clip / np.sqrt(sum(squares)))
    return jax.tree.map(
        lambda g, s: np.einsum("b,b...->...", factor, g) / s / BATCH, scaled, scale
    )


def test_the_first_step_is_that_of_dp_sgd():
    rows = gradients()
    ours = make(noise=1.0)
    plain = optimizers.differentially_private_aggregate(1.0, 1.0, 3)
    found, _ = ours.update(rows, ours.init(PARAMS), PARAMS)
    wanted, _ = plain.update(rows, plain.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_a_step_is_the_formula_and_the_moment_follows_what_was_released():
    optimizer = make(decay=0.75)
    state = optimizer.init(PARAMS)
    moment = jax.tree.map(np.zeros_like, PARAMS)
    for _ in range(3):
        found, state = optimizer.update(gradients(), state, PARAMS)
        chex.assert_trees_all_close(
            found, by_hand(gradients(), scale_of(moment), 1.0), rtol=1e-4
        )
        moment = jax.tree.map(lambda v, g: 0.75 * v + 0.25 * g**2, moment, found)
        chex.assert_trees_all_close(state.second_moment, moment, rtol=1e-5)


def test_per_example_gradients_and_a_loss_give_the_same_numbers():
    optimizer = make(noise=1.3, second_moment=moments(2.0))
    state = optimizer.init(PARAMS)
    given, one = optimizer.update(gradients(), state, PARAMS)
    inside, other = jax.jit(
        lambda state, batch: optimizer.update(
            None, state, PARAMS, loss_fn=loss, batch=batch
        )
    )(state, data())
    chex.assert_trees_all_close(given, inside, rtol=2e-5, atol=1e-6)
    chex.assert_trees_all_close(one, other, rtol=4e-5, atol=1e-6)


EXTREMES = [1.0, 1e6, 1e30, 1e-30, np.nan, np.inf]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("value", [0.0, 1e-3, 1e4])
def test_one_example_moves_the_scaled_sum_by_at_most_the_clip_norm(extreme, value):
    # What has noise is s g N: there, every coordinate has noise of the same size.
    optimizer = make(
        second_moment=moments(value), clip=0.7, expected_batch_size=float(BATCH)
    )
    state = optimizer.init(PARAMS)
    scale = scale_of(moments(value))

    def noised(rows, mask):
        average, _ = optimizer.update(rows, state, PARAMS, mask=mask)
        return jax.tree.map(lambda g, s: np.float64(g) * s * BATCH, average, scale)

    rows = jax.tree.map(lambda g: g.at[2].multiply(extreme), gradients())
    all_of_them = jnp.ones(BATCH, bool)
    with_it = noised(rows, all_of_them)
    without = noised(rows, all_of_them.at[2].set(False))
    moved = jax.tree.leaves(jax.tree.map(np.subtract, with_it, without))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in moved))
    assert norm <= 0.7 * (1 + 1e-5)
    if extreme == 1e6:
        assert norm > 0.7 * (1 - 1e-4)
    if not np.isfinite(extreme):
        assert norm == 0


def test_the_noise_released_has_the_stated_size_in_scaled_coordinates():
    params = {"w": jnp.zeros(20_000), "b": jnp.zeros(20_000)}
    moment = {"w": jnp.full(20_000, 3.0), "b": jnp.zeros(20_000)}
    optimizer = scale_then_privatize(
        0.5, 2.0, 7, stability=1.0, second_moment=moment, expected_batch_size=10.0
    )
    zero = jax.tree.map(lambda leaf: jnp.zeros((4, *leaf.shape)), params)
    state = optimizer.init(params)
    average, state = optimizer.update(zero, state, params)
    plain = 2.0 * 0.5 / 10
    for name, factor in (("w", 2.0), ("b", 1.0)):
        ratio = float(average[name].std()) / (plain * factor)
        assert abs(ratio - 1) < 5 / np.sqrt(2 * 20_000)
    spent = dpjax.privacy_spent(state, 1e-5)
    exact = dpjax.exact_epsilon(
        noise_multiplier=2.0, sampling_prob=1.0, num_steps=1, delta=1e-5
    )
    assert spent.epsilon == pytest.approx(exact, rel=1e-9)


def test_a_decay_of_one_keeps_the_public_scale():
    optimizer = make(noise=1.0, decay=1.0, second_moment=moments(5.0))
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = optimizer.update(gradients(), state, PARAMS)
    chex.assert_trees_all_equal(state.second_moment, moments(5.0))


def test_scaling_keeps_small_coordinates_from_being_clipped_away():
    # Gradients of the first weight are 300 times those of the last: clipped as they
    # are, hardly anything of the last is left.
    rows = gradients()
    truth = jax.tree.map(lambda g: g.mean(axis=0), rows)
    shares = []
    for value in (0.0, 900.0):
        second = moments(0.0) | {"w": jnp.array([value, 0.0, 0.0])}
        optimizer = make(second_moment=second, clip=20.0)
        found, _ = optimizer.update(rows, optimizer.init(PARAMS), PARAMS)
        shares.append(abs(float(found["w"][1] / truth["w"][1])))
    assert shares[1] > 4 * shares[0]


def test_it_is_accepted_as_a_private_optimizer():
    chained = optax.chain(make(noise=1.0, key=5), optax.adam(0.1))
    dpjax.optimizers.check_optimizer(chained, PARAMS)
    state = chained.init(PARAMS)
    for _ in range(4):
        updates, state = chained.update(gradients(), state, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
    assert dpjax.privacy_spent(state, 1e-5).steps == 4


def test_masked_rows_and_public_divisors_are_those_of_the_plain_step():
    optimizer = make(sampling_prob=0.1, expected_batch_size=10.0)
    rows, mask = gradients(), jnp.arange(BATCH) < 3
    found, _ = optimizer.update(rows, optimizer.init(PARAMS), PARAMS, mask=mask)
    few = jax.tree.map(lambda g: g.at[3:].set(0), rows)
    wanted, _ = optimizer.update(few, optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_clipped_gradients_are_refused_since_they_were_not_scaled():
    clipped = dpjax.clipped_grad(loss, 1.0)(PARAMS, *data())
    optimizer = make()
    with pytest.raises(ValueError, match="per-example gradients"):
        optimizer.update(clipped, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stability": 0.0}, "stability"),
        ({"decay": 1.1}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"noise": -1.0}, "noise_multiplier"),
        ({"clip": 0.0}, "l2_norm_clip"),
        ({"second_moment": {"w": jnp.zeros(2), "b": jnp.zeros(())}}, "second_moment"),
        ({"second_moment": moments(-1.0)}, "second_moment"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        make(**options).init(PARAMS)


def test_a_loss_without_its_batch_is_refused():
    optimizer = make()
    with pytest.raises(ValueError, match=r"loss_fn=\.\.\., batch="):
        optimizer.update(None, optimizer.init(PARAMS), PARAMS)
