"""Noise on the rows of embedding tables that a batch touches often."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import dpjax
from dpjax.optimizers.sparse_rows import sparse_row_aggregate

ROWS, WIDTH, BATCH = 160, 3, 50
PARAMS = {"table": jnp.zeros((ROWS, WIDTH)), "dense": jnp.zeros(5)}


def is_table(path):
    return "table" in path


def make(noise=1.0, clip=1.0, **options):
    settings = {"tables": is_table, "threshold": 20.0, "count_noise": 4.0, "key": 0}
    return sparse_row_aggregate(clip, noise, **settings | options)


def gradients(seed=0):
    """Return gradients in which all examples touch row 7, and each one of its own."""
    values = np.random.default_rng(seed).normal(size=(BATCH, 2, WIDTH))
    table = np.zeros((BATCH, ROWS, WIDTH), np.float32)
    table[:, 7] = values[:, 0]
    table[np.arange(BATCH), 100 + np.arange(BATCH)] = values[:, 1]
    dense = np.random.default_rng(seed + 1).normal(size=(BATCH, 5))
    return {"table": jnp.asarray(table), "dense": jnp.asarray(dense, jnp.float32)}


def step(optimizer, rows, mask=None, state=None):
    state = optimizer.init(PARAMS) if state is None else state
    return optimizer.update(rows, state, PARAMS, mask=mask)


def test_only_rows_that_are_touched_often_are_in_the_update():
    average, _ = step(make(), gradients())
    assert np.flatnonzero(average["table"].any(axis=1)).tolist() == [7]
    assert np.all(average["dense"] != 0)
    chex.assert_trees_all_equal_shapes_and_dtypes(average, PARAMS)


def test_the_average_is_that_of_gradients_clipped_on_the_chosen_rows():
    found, _ = step(make(noise=1e-4, count_noise=1e-3, clip=0.5), gradients())
    kept = np.zeros_like(gradients()["table"])
    kept[:, 7] = gradients()["table"][:, 7]
    rows = gradients() | {"table": jnp.asarray(kept)}
    whole = dpjax.differentially_private_aggregate(0.5, 0.0, 0)
    wanted, _ = whole.update(rows, whole.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(found, wanted, atol=1e-4)


def test_a_threshold_below_everything_is_the_plain_step_with_more_noise():
    # The noise of the average, alone: 1 / (1 - 1/16)^(1/2) times that of z = 1.
    plain = dpjax.differentially_private_aggregate(1.0, 1.0, 0)
    empty = jax.tree.map(lambda leaf: jnp.zeros((BATCH, *leaf.shape)), PARAMS)
    wanted, _ = plain.update(empty, plain.init(PARAMS), PARAMS)
    found, _ = step(make(threshold=-1e9), empty)
    scaled = jax.tree.map(lambda leaf: leaf / np.sqrt(1 - 1 / 16), wanted)
    chex.assert_trees_all_close(found, scaled, rtol=1e-5)


def test_what_a_step_releases_costs_one_release_of_the_noise_multiplier():
    optimizer = make(noise=0.8, count_noise=2.0)
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = step(optimizer, gradients(), state=state)
    both = 1 / 2.0**2 + 1 / (0.8 / np.sqrt(1 - 0.16)) ** 2
    assert both == pytest.approx(1 / 0.8**2)
    exact = dpjax.exact_epsilon(
        noise_multiplier=both**-0.5, sampling_prob=1.0, num_steps=3, delta=1e-5
    )
    spent = dpjax.privacy_spent(state, 1e-5)
    assert spent.epsilon == pytest.approx(exact, rel=1e-6)


def chosen_share(optimizer, rows, which, trials=500):
    """Return how often a row is chosen, over keys."""

    def chosen(key):
        state = optimizer.init(PARAMS)
        state = state._replace(private=state.private._replace(key=key))
        return step(optimizer, rows, state=state)[0]["table"][which].any()

    keys = jax.random.bits(jax.random.key(1), (trials, 2), jnp.uint32)
    return float(jnp.mean(jax.jit(jax.vmap(chosen))(keys)))


def test_counts_have_the_noise_that_is_accounted_for():
    # Row 7 has 50 / sqrt(2): how often its count is within one stated deviation.
    rows, count = gradients(), BATCH / np.sqrt(2)
    below, above = (
        chosen_share(make(threshold=count + offset), rows, 7) for offset in (-4.0, 4.0)
    )
    error = 5 * np.sqrt(2 * 0.8413 * 0.1587 / 500)
    assert abs(below + above - 1) < error
    for spread in (2 / 3, 1.0, 3 / 2):  # Of the stated deviation.
        within = 1 - 2 * stats.norm.sf(1 / spread)
        assert (abs(below - above - within) < error) == (spread == 1.0)


def sum_of_counts(rows, mask=None):
    """Return what is noised to choose rows, read off by thresholds."""
    from_below = []
    for threshold in np.linspace(0.05, 1.25, 25):
        optimizer = make(noise=1e-6, count_noise=1e-5, threshold=threshold)
        average, _ = step(optimizer, rows, mask)
        from_below.append(np.asarray(average["table"]).any(axis=1))
    return 0.05 * np.sum(from_below, axis=0)


@pytest.mark.parametrize("touched", [1, 4, 25])
def test_one_example_moves_counts_by_at_most_the_clip(touched):
    one = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), PARAMS)
    one["table"] = one["table"].at[0, :touched].set(1e-3)
    counts = sum_of_counts(one)
    assert np.flatnonzero(counts).size == touched
    assert np.linalg.norm(counts) <= 1 + 1e-6
    assert np.linalg.norm(counts + 0.05 * (counts > 0)) >= 1 - 1e-9


@pytest.mark.parametrize("hostile", [np.nan, np.inf])
def test_an_example_that_is_not_finite_is_in_neither_release(hostile):
    rows = gradients()
    broken = jax.tree.map(lambda g: g.at[3, 2].set(hostile), rows)
    mask = jnp.arange(BATCH) != 3
    options = {"expected_batch_size": 50.0}
    found, _ = step(make(**options), broken, jnp.ones(BATCH, bool))
    wanted, _ = step(make(**options), rows, mask)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_an_empty_batch_is_noise_on_few_rows():
    mask = jnp.zeros(BATCH, bool)
    optimizer = make(expected_batch_size=50.0, threshold=8.0)
    average, _ = step(optimizer, gradients(), mask)
    assert np.asarray(average["table"]).any(axis=1).mean() < 0.1
    assert np.all(average["dense"] != 0)


def test_the_check_that_knows_one_clip_alone_refuses_it():
    with pytest.raises(ValueError, match="past the noise"):
        dpjax.optimizers.check_optimizer(make(), PARAMS)


def test_a_chain_with_it_may_be_compiled():
    chained = optax.chain(make(), optax.sgd(0.1))
    update = jax.jit(chained.update)
    state = chained.init(PARAMS)
    for _ in range(2):
        updates, state = update(gradients(), state, PARAMS)
    assert dpjax.privacy_spent(state, 1e-5).steps == 2
    assert np.asarray(updates["table"]).any(axis=1).sum() == 1


def test_steps_choose_with_noise_of_their_own():
    optimizer = make(threshold=BATCH / np.sqrt(2), count_noise=50.0)
    state, chosen = optimizer.init(PARAMS), []
    for _ in range(6):
        average, state = step(optimizer, gradients(), state=state)
        chosen.append(np.asarray(average["table"]).any(axis=1))
    assert len({row.tobytes() for row in chosen}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise_multiplier"),
        ({"count_noise": 1.0}, "count_noise"),
        ({"count_clip": 0.0}, "count_clip"),
        ({"threshold": np.nan}, "threshold"),
        ({"clip": -1.0}, "l2_norm_clip"),
        ({"tables": lambda _: False}, "tables"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        make(**options).init(PARAMS)


def test_sums_are_refused_since_their_rows_are_added_up():
    grads = dpjax.ClippedGrads(PARAMS, None, 1.0, 3)
    for updates in (None, grads):
        with pytest.raises(ValueError, match="per-example gradients"):
            step(make(), updates)
