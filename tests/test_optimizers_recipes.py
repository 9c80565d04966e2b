"""README's recipes for Flax, and states that go through a checkpoint."""

import copy
import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import linen, nnx
from flax.training import train_state
from released import PARAMS, examples, normal_rows

from dpjax import clipping, optimizers
from dpjax.optimizers import privacy_spent, segments

DELTA = 1e-5
X, Y = examples()
BATCHES = [normal_rows(PARAMS, seed=seed) for seed in range(6)]


def square(prediction, y):
    return jnp.sum((prediction - y) ** 2)


# Flax: the private step is one of its own.


def test_flax_train_state_gets_the_output_of_the_private_step():
    model = linen.Dense(3)
    params = model.init(jax.random.key(0), X[0])
    private = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.adam(0.1)
    )
    dp_state = private.init(state.params)

    def loss_fn(params, x, y):
        return square(model.apply(params, x), y)

    @jax.jit
    def train_step(state, dp_state):
        grads = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(state.params, X, Y)
        grads, dp_state = private.update(grads, dp_state, state.params)
        return state.apply_gradients(grads=grads), dp_state

    whole = optimizers.dpadam(0.1, 0.5, 1.1, 3)
    opt_state = whole.init(params)

    @jax.jit
    def whole_step(params, opt_state):
        grads = clipping.clipped_grad(loss_fn, 0.5)(params, X, Y)
        updates, opt_state = whole.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(3):
        state, dp_state = train_step(state, dp_state)
        params, opt_state = whole_step(params, opt_state)
    assert int(state.step) == 3
    chex.assert_trees_all_close(state.params, params, rtol=1e-3, atol=1e-4)
    assert privacy_spent(dp_state, DELTA) == privacy_spent(opt_state, DELTA)


def test_nnx_optimizer_gets_the_output_of_the_private_step():
    model = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    private = optimizers.differentially_private_aggregate(
        0.5, 1.1, 3, expected_batch_size=7, sampling_prob=0.1
    )
    graph, params = nnx.split(model, nnx.Param)
    dp_state = private.init(params)
    kernel = jnp.array(model.kernel[...])

    def loss_fn(params, x, y):
        return square(nnx.merge(graph, params)(x), y)

    grads = clipping.clipped_grad(loss_fn, 0.5)(params, X, Y)
    average, dp_state = private.update(grads, dp_state, params)
    optimizer.update(model, average)
    expected = kernel - 0.1 * average["kernel"][...]
    np.testing.assert_allclose(model.kernel[...], expected, rtol=1e-5, atol=1e-6)
    assert privacy_spent(dp_state, DELTA).steps == 1


def test_check_optimizer_takes_the_params_of_an_nnx_model():
    params = nnx.state(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.Param)
    optimizers.check_optimizer(optimizers.dpsgd(0.1, 0.5, 1.1, 3), params)


# Checkpoints: the run goes on bit for bit.

OPTIMIZER = optax.chain(
    optimizers.dpadam(
        optax.linear_schedule(0.1, 0.0, 9),
        *(0.5, 1 / 3),
        expected_batch_size=10,
        sampling_prob=0.1,
    ),
    optax.ema(0.5),
)


@jax.jit
def step(params, state, batch):
    updates, state = OPTIMIZER.update(batch, state, params)
    return optax.apply_updates(params, updates), state


def run(params, state, batches):
    for batch in batches:
        params, state = step(params, state, batch)
    return params, state


def through_orbax(tree, folder):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "checkpoint", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "checkpoint", fresh(tree))


def through_pickle(tree, folder):
    (folder / "state").write_bytes(pickle.dumps(tree))
    return pickle.loads((folder / "state").read_bytes())


def through_flax_bytes(tree, folder):
    (folder / "state").write_bytes(flax.serialization.to_bytes(tree))
    return flax.serialization.from_bytes(fresh(tree), (folder / "state").read_bytes())


def through_flax_dict(tree, folder):
    del folder
    found = flax.serialization.to_state_dict(tree)
    return flax.serialization.from_state_dict(fresh(tree), found)


def through_numpy(tree, folder):
    del folder
    return jax.tree.map(np.asarray, copy.deepcopy(tree))


def fresh(tree):
    """Return what a new process has: params of its own, and a state with a new key."""
    params, _ = tree
    params = jax.tree.map(jnp.zeros_like, params)
    return params, OPTIMIZER.init(params)


@pytest.mark.parametrize(
    "round_trip",
    [
        through_orbax,
        through_pickle,
        through_flax_bytes,
        through_flax_dict,
        through_numpy,
    ],
)
def test_run_goes_on_bit_for_bit_after_a_round_trip(round_trip, tmp_path):
    start = (PARAMS, OPTIMIZER.init(PARAMS))
    uninterrupted = run(*start, BATCHES)
    halfway = run(*start, BATCHES[:3])
    restored = round_trip(halfway, tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(halfway)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, halfway)
    chex.assert_trees_all_equal(run(*restored, BATCHES[3:]), uninterrupted)
    assert privacy_spent(restored[1], DELTA) == privacy_spent(halfway[1], DELTA)
    private_state = restored[1][0][0]
    assert segments.read(private_state.segments) == [(1 / 3, 0.1, 3)]


def test_state_that_lost_its_types_is_refused_with_its_structure():
    as_dict = flax.serialization.to_state_dict(OPTIMIZER.init(PARAMS))
    with pytest.raises(ValueError, match=r"got 0 in a state of structure"):
        privacy_spent(as_dict, DELTA)
