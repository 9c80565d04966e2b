"""Training a part of the parameters: what is frozen has no gradient and no noise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax.optimizers.partial import (
    adapted,
    adapted_loss,
    low_rank_adapters,
    merge_params,
    partial_loss,
    split_params,
)

PARAMS = {
    "base": {"kernel": jnp.full((3, 4), 0.3), "bias": jnp.zeros(4)},
    "head": {"kernel": jnp.full((4,), -0.2), "bias": jnp.array(0.1)},
}
X = jax.random.normal(jax.random.key(0), (5, 3))
Y = jnp.arange(5.0)


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["base"]["kernel"] + params["base"]["bias"])
    return 0.5 * (hidden @ params["head"]["kernel"] + params["head"]["bias"] - y) ** 2


def head_only(path):
    return "head" in path


def split():
    return split_params(PARAMS, head_only)


def test_the_two_trees_make_up_the_whole():
    parts = split()
    chex.assert_trees_all_equal(parts.merged(), PARAMS)
    assert len(jax.tree.leaves(parts.trained)) == 2
    assert len(jax.tree.leaves(parts.frozen)) == 2
    chex.assert_trees_all_equal(merge_params(parts.frozen, parts.trained), PARAMS)


def test_parameters_that_hold_none_keep_it():
    params = {"a": jnp.ones(2), "none": None, "head": [jnp.zeros(1), None]}
    parts = split_params(params, head_only)
    assert parts.merged()["none"] is None
    chex.assert_trees_all_equal(parts.merged(), params)


@pytest.mark.parametrize("engine", ["vmap", "bookkeeping", "auto"])
def test_only_trained_leaves_are_clipped_and_their_norms_count_alone(engine):
    parts = split()
    fn = dpjax.clipped_grad(partial_loss(loss, parts.frozen), 0.5, engine=engine)
    grads = fn(parts.trained, X, Y)
    whole = dpjax.per_example_grad(loss)(PARAMS, X, Y)["head"]
    norms = np.sqrt(np.square(whole["kernel"]).sum(axis=1) + np.square(whole["bias"]))
    np.testing.assert_allclose(grads.per_example.grad_norm, norms, rtol=1e-4)
    factors = np.minimum(1, 0.5 / norms)
    np.testing.assert_allclose(
        grads.sum["head"]["kernel"], factors @ whole["kernel"], rtol=1e-4
    )
    assert jax.tree.leaves(grads.sum["base"]) == []
    assert grads.sensitivity == 0.5


@pytest.mark.parametrize("extreme", [1e4, 1e30, np.nan])
def test_the_sensitivity_is_that_of_the_trained_leaves(extreme):
    parts = split()
    fn = dpjax.clipped_grad(partial_loss(loss, parts.frozen), 0.5)
    with_it = fn(parts.trained, X, Y.at[1].set(extreme)).sum
    mask = jnp.arange(5) != 1
    without = fn(parts.trained, X, Y, mask=mask).sum
    moved = jax.tree.leaves(jax.tree.map(np.subtract, with_it, without))
    norm = np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in moved))
    assert norm <= 0.5 * (1 + 1e-5)
    if extreme == 1e4:
        assert norm > 0.49


def test_noise_is_added_to_trained_leaves_and_to_no_other():
    parts = split()
    private = dpjax.privatize(optax.sgd(1.0), 1.0, 2.0, 0, expected_batch_size=1.0)
    updates, state = private.update(
        None,
        private.init(parts.trained),
        parts.trained,
        loss_fn=partial_loss(loss, parts.frozen),
        batch=(X, Y),
        mask=jnp.zeros(5, bool),
    )
    assert jax.tree.leaves(updates["base"]) == []
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(updates))
    trained = optax.apply_updates(parts.trained, updates)
    after = merge_params(trained, parts.frozen)
    chex.assert_trees_all_equal(after["base"], PARAMS["base"])
    assert not np.allclose(after["head"]["kernel"], PARAMS["head"]["kernel"])
    assert dpjax.privacy_spent(state, 1e-5).steps == 1


def test_noise_of_a_leaf_does_not_depend_on_which_others_are_trained():
    private = dpjax.differentially_private_aggregate(
        1.0, 2.0, 0, expected_batch_size=1.0
    )

    def noise_of(params, loss_fn):
        return private.update(
            None,
            private.init(params),
            params,
            loss_fn=loss_fn,
            batch=(X, Y),
            mask=jnp.zeros(5, bool),
        )[0]

    parts = split()
    some = noise_of(parts.trained, partial_loss(loss, parts.frozen))
    chex.assert_trees_all_equal(some["head"], noise_of(PARAMS, loss)["head"])


def test_masks_around_the_private_step_are_refused_and_inside_of_it_lawful():
    mask = {"base": False, "head": True}
    masked = optax.masked(dpjax.dpsgd(0.1, 1.0, 1.0, 0), mask)
    rows = dpjax.per_example_grad(loss)(PARAMS, X, Y)
    with pytest.raises(ValueError, match="masked"):
        masked.update(rows, masked.init(PARAMS), PARAMS)
    inside = dpjax.privatize(optax.masked(optax.sgd(0.1), mask), 1.0, 1.0, 0)
    updates, _ = inside.update(rows, inside.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal_shapes(updates, PARAMS)


def test_nothing_chosen_is_refused():
    with pytest.raises(ValueError, match="trainable"):
        split_params(PARAMS, lambda path: "tail" in path)


def test_adapters_change_nothing_at_the_start_and_add_a_product_later():
    adapters = low_rank_adapters(PARAMS, 2, key=1)
    chex.assert_trees_all_equal(adapted(PARAMS, adapters), PARAMS)
    assert adapters["base"]["bias"] is None
    assert adapters["head"] == {"kernel": None, "bias": None}
    pair = adapters["base"]["kernel"]
    pair["b"] = jnp.arange(8.0).reshape(2, 4)
    found = adapted(PARAMS, adapters, scale=0.5)["base"]["kernel"]
    wanted = PARAMS["base"]["kernel"] + 0.5 * pair["a"] @ pair["b"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_adapters_learn_privately_and_the_base_stays():
    adapters = low_rank_adapters(PARAMS, 1, key=1)
    private = dpjax.privatize(optax.sgd(0.5), 1.0, 0.1, 0)
    state, start = (
        private.init(adapters),
        float(jax.vmap(lambda x, y: loss(PARAMS, x, y))(X, Y).mean()),
    )
    chosen = adapted_loss(loss, PARAMS)
    update = jax.jit(
        lambda state, adapters: private.update(
            None, state, adapters, loss_fn=chosen, batch=(X, Y)
        )
    )
    for _ in range(30):
        updates, state = update(state, adapters)
        adapters = optax.apply_updates(adapters, updates)
    after = adapted(PARAMS, adapters)
    end = float(jax.vmap(lambda x, y: loss(after, x, y))(X, Y).mean())
    assert end < start
    chex.assert_trees_all_equal(after["head"], PARAMS["head"])


def test_the_same_key_gives_the_same_adapters_and_leaves_differ():
    params = {"one": jnp.zeros((6, 5)), "two": jnp.zeros((2, 6, 5))}
    one, same = (low_rank_adapters(params, 2, key=3) for _ in "12")
    chex.assert_trees_all_equal(one, same)
    assert one["two"]["a"].shape == (2, 6, 2)
    assert not np.allclose(one["one"]["a"], one["two"]["a"][0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PARAMS, 0, 0), {}, "rank"),
        ((PARAMS, 3, 0), {}, "rank below 3"),
        ((PARAMS, 1, 0), {"where": lambda path: "bias" in path}, "two axes"),
        ((PARAMS, 1, 0), {"where": lambda _: False}, "where"),
    ],
)
def test_adapters_that_cannot_be_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        low_rank_adapters(*arguments, **options)
