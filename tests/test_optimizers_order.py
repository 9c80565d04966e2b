import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from released import PARAMS, normal_rows

from dpjax import optimizers
from dpjax.optimizers import check_optimizer

AGGREGATE = optimizers.differentially_private_aggregate(0.5, 1.1, 3)
PRIVATE = optimizers.dpsgd(0.1, 0.5, 1.1, 3)


def stateless(function):
    """Return a transformation that applies `function(updates)`."""
    return optax.stateless(lambda updates, _: function(updates))


def wrapped(function):
    """Return a transformation around `AGGREGATE`: `function(raw, private, state)`."""

    def update(updates, state, params=None, **extra_args):
        inner, memory = state
        private, inner = AGGREGATE.update(updates, inner, params, **extra_args)
        private, memory = function(updates, private, memory)
        return private, (inner, memory)

    def init(params):
        return AGGREGATE.init(params), (jnp.zeros(()), jnp.zeros(()))

    return optax.GradientTransformationExtraArgs(init, update)


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def shifted(tree, by):
    return jax.tree.map(lambda leaf: leaf + by, tree)


def with_own_clip_norm(updates, state, params=None):
    clip_norm = jnp.median(jnp.abs(updates["b"]))
    chosen = optimizers.differentially_private_aggregate(clip_norm, 1.1, 3)
    return chosen.update(updates, state, params)


def sometimes_raw(updates, state, params=None):
    def private(state):
        return AGGREGATE.update(updates, state, params)

    def raw(state):
        return jax.tree.map(lambda u: u.mean(axis=0), updates), state

    return jax.lax.cond(state.step % 2 == 0, private, raw, state)


LAWFUL = {
    "dpsgd": PRIVATE,
    "dpadam": optimizers.dpadam(0.1, 0.5, 1.1, 3),
    "fresh key": optimizers.dpadamw(0.1, 0.5, 1.1),
    "mask inside": optimizers.privatize(
        optax.masked(optax.adam(0.1), {"w": True, "b": False}), 0.5, 1.1, 3
    ),
    "accumulation inside": optimizers.privatize(
        optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(), 0.5, 1.1, 3
    ),
    "accumulation behind": optax.chain(AGGREGATE, optax.apply_every(3)),
    "accumulation behind by name": optax.named_chain(
        ("z", AGGREGATE), ("a", optax.apply_every(3))
    ),
    "momentum behind": optax.chain(AGGREGATE, optax.trace(0.9)),
    "global norm behind": optax.chain(AGGREGATE, optax.clip_by_global_norm(1.0)),
    "elementwise before": optax.chain(optax.clip(1.0), optax.scale(0.5), PRIVATE),
    "schedule before": optax.chain(
        optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 9)), PRIVATE
    ),
    "weight decay before": optax.chain(optax.add_decayed_weights(0.1), PRIVATE),
    "NaN to zero before": optax.chain(optax.zero_nans(), PRIVATE),
    "schedule-free around": optax.contrib.schedule_free(PRIVATE, 0.1),
    "injected": optax.inject_hyperparams(optimizers.dpsgd)(
        optax.constant_schedule(0.1), 0.5, 1.1, 3
    ),
    "under jit": optax.GradientTransformation(PRIVATE.init, jax.jit(PRIVATE.update)),
    "noise zero": optimizers.dpsgd(0.1, 0.5, 0.0, 3),
}

MIXES = "mixes the gradients of different examples"
REMEMBERS = "remembers earlier batches"
LEAKS = "carries raw gradients past the noise"

REFUSED = {
    "no private step": (optax.adam(0.1), "got 0 in a state"),
    "two private steps": (optax.chain(AGGREGATE, PRIVATE), "got 2 in a state"),
    "MultiSteps around": (optax.MultiSteps(PRIVATE, 4), "got MultiSteps before"),
    "apply_every before": (
        optax.chain(optax.apply_every(4), PRIVATE),
        "got apply_every before",
    ),
    "apply_every before by name": (
        optax.named_chain(("z", optax.apply_every(3)), ("a", PRIVATE)),
        "got apply_every before",
    ),
    "apply_if_finite around": (
        optax.apply_if_finite(PRIVATE, 3),
        "got ApplyIfFinite before",
    ),
    "condition around": (
        optax.conditionally_transform(PRIVATE, lambda step: step < 3),
        "got ConditionallyTransform before",
    ),
    "condition of one's own": (
        optax.GradientTransformation(AGGREGATE.init, sometimes_raw),
        r"decision or loop \(cond\) around the noise",
    ),
    "global norm before": (optax.chain(optax.clip_by_global_norm(1.0), PRIVATE), MIXES),
    "global norm that is rarely reached": (
        optax.chain(optax.clip_by_global_norm(1e6), PRIVATE),
        MIXES,
    ),
    "global norm scaled up": (
        optax.chain(
            stateless(
                lambda u: jax.tree.map(
                    lambda g: g * jnp.maximum(1.0, 1e-2 / optax.tree.norm(u)), u
                )
            ),
            PRIVATE,
        ),
        MIXES,
    ),
    "batch normalisation": (
        optax.chain(
            stateless(lambda u: jax.tree.map(lambda g: g - g.mean(axis=0), u)), PRIVATE
        ),
        MIXES,
    ),
    "dropping a batch with a NaN": (
        optax.chain(
            stateless(
                lambda u: jax.tree.map(
                    lambda g: jnp.where(jnp.all(jnp.isfinite(g)), g, 0), u
                )
            ),
            PRIVATE,
        ),
        MIXES,
    ),
    "every example twice": (
        optax.chain(
            stateless(lambda u: jax.tree.map(lambda g: jnp.concatenate([g, g]), u)),
            PRIVATE,
        ),
        MIXES,
    ),
    "momentum before": (optax.chain(optax.trace(0.9), PRIVATE), REMEMBERS),
    "adam before": (optax.chain(optax.scale_by_adam(), PRIVATE), REMEMBERS),
    "raw gradients added behind": (
        wrapped(lambda raw, private, m: (shifted(private, 1e-9 * total(raw)), m)),
        LEAKS,
    ),
    "raw gradients of the step before": (
        wrapped(lambda raw, private, m: (shifted(private, m[0]), (total(raw), m[1]))),
        LEAKS,
    ),
    "raw gradients of two steps before": (
        wrapped(lambda raw, private, m: (shifted(private, m[1]), (total(raw), m[0]))),
        LEAKS,
    ),
    "clip norm from the batch": (
        optax.GradientTransformation(AGGREGATE.init, with_own_clip_norm),
        "clip norm that is chosen by looking at raw gradients",
    ),
    "noise left out": (
        optax.GradientTransformation(
            AGGREGATE.init, lambda u, s, p=None: (u, AGGREGATE.init(PARAMS))
        ),
        "0 clipping operations",
    ),
    "two releases of one batch": (
        optax.GradientTransformation(
            AGGREGATE.init,
            lambda u, s, p=None: AGGREGATE.update(u, AGGREGATE.update(u, s, p)[1], p),
        ),
        "2 clipping operations",
    ),
}


@pytest.mark.parametrize("optimizer", LAWFUL.values(), ids=LAWFUL)
def test_lawful_order_is_accepted(optimizer):
    assert check_optimizer(optimizer, PARAMS) is None


@pytest.mark.parametrize(("optimizer", "cause"), REFUSED.values(), ids=REFUSED)
def test_order_that_cannot_be_private_is_refused_by_its_cause(optimizer, cause):
    with pytest.raises(ValueError, match=cause):
        check_optimizer(optimizer, PARAMS)


def test_raw_gradients_that_are_kept_and_never_used_are_lawful():
    kept = wrapped(lambda raw, private, m: (private, (total(raw), m[0])))
    check_optimizer(kept, PARAMS)


def test_refusal_names_the_way_out():
    with pytest.raises(ValueError, match=r"privatize\(optimizer, \.\.\.\)"):
        check_optimizer(optax.chain(optax.trace(0.9), PRIVATE), PARAMS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_order_is_checked_in_every_dtype(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    check_optimizer(PRIVATE, params)
    with pytest.raises(ValueError, match=MIXES):
        check_optimizer(optax.chain(optax.clip_by_global_norm(1.0), PRIVATE), params)


def test_only_shapes_and_dtypes_of_the_params_matter():
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    check_optimizer(PRIVATE, shapes)
    check_optimizer(PRIVATE, {"w": np.full((2, 1), np.nan), "b": [np.ones(3)]})


def test_params_that_cannot_be_trained_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        check_optimizer(PRIVATE, {"w": jnp.arange(3)})
    with pytest.raises(ValueError, match="at least one array"):
        check_optimizer(PRIVATE, {})


def test_condition_that_was_refused_would_have_released_raw_gradients():
    # Why it is refused: its odd steps return averages without noise.
    optimizer = optax.GradientTransformation(AGGREGATE.init, sometimes_raw)
    state = optimizer.init(PARAMS)._replace(step=jnp.uint32(1))
    grads = normal_rows(PARAMS)
    updates, _ = optimizer.update(grads, state, PARAMS)
    np.testing.assert_allclose(updates["b"], grads["b"].mean(axis=0), rtol=1e-5)


def test_what_runs_uncompiled_is_checked_as_what_is_compiled():
    with jax.disable_jit():
        check_optimizer(PRIVATE, PARAMS)
