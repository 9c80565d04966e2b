"""Inside of `shard_map`, with each device's own examples: engines and microbatches."""

import functools

import jax
import losses
import numpy as np
import pytest

import dpjax

DEVICES = 2
# A program of these tests runs once: compiling it is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}

CORE = [
    "mlp_over_positions",
    "conv_everything",
    "embedding_bag",
    "embedding_windows",
    "gathered_columns",
    "positions_by_dynamic_slice",
    "transformer_with_tied_embedding",
    "experts_gathered_by_top_k",
    "weight_norm",
    "dropout_with_a_key_per_example",
]


def clipped_sum(case, engine, **settings):
    """Return the clipped sum over both devices, each of which has half of a batch."""
    fn = dpjax.clipped_grad(case.loss, 1.0, engine=engine, **case.options, **settings)
    args, specs = losses.shared_out(case, DEVICES)
    mesh = jax.make_mesh(
        (DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=jax.P())
    def summed(*args):
        return jax.lax.psum(fn(*args).sum, "data")

    return jax.jit(summed, compiler_options=UNOPTIMISED)(*args)


def check(case, **settings):
    want = clipped_sum(case, "vmap")
    got = clipped_sum(case, "bookkeeping", **settings)
    tolerance = 5e-2 if case.lowest else 1e-5
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(close, got, want)


@pytest.mark.parametrize("name", CORE)
def test_the_engines_agree(name):
    check(losses.build(name))


@pytest.mark.parametrize("name", ["embedding_bag", "conv_everything"])
def test_microbatches_change_nothing(name):
    check(losses.build(name), microbatch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*losses.NAMES} - {*CORE}))
def test_the_engines_agree_on_the_rest_of_the_zoo_or_both_refuse(name):
    case = losses.build(name)
    try:
        clipped_sum(case, "vmap")
    except (TypeError, ValueError) as refused:
        # JAX asks a loop to begin with values that differ where its results do.
        with pytest.raises(type(refused)):
            clipped_sum(case, "bookkeeping")
    else:
        check(case)
