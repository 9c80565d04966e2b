"""fit on several devices of one process: the numbers, the noise and the programs."""

import json
import math
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import spread_runs
from jax.sharding import NamedSharding, PartitionSpec

from dpjax import clipping, noise
from dpjax.training import feeding, spreading
from dpjax.training.losses import Loss
from dpjax.training.placement import SINGLE, Placement
from dpjax.training.sources import ArraySource
from dpjax.training.state import initial_state
from dpjax.training.step import make_gradient
from dpjax.training.update import make_update

SCRIPT = pathlib.Path(spread_runs.__file__)
FEW_ROUNDINGS = 1e-5
"""Float32 sums over devices in another order, through five steps."""

EXCHANGES = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)
CASES = list(spread_runs.CASES)


def two_devices(**options):
    return Placement(**options).layout(spread_runs.params())


def sizes(shapes):
    """Return the number of values of each array type in a text."""
    found = re.findall(r"(?:f32|u32|s32|pred|bf16)\[([\d,]*)\]", shapes)
    return [math.prod(int(n) for n in each.split(",") if n) for each in found]


def exchanged(program):
    """Return the sizes of all arrays that devices exchange."""
    # A tuple's type has spaces, and numbers its parts in comments.
    plain = re.sub(r"/\*.*?\*/", "", program)
    lines = EXCHANGES.findall(plain)
    return [size for line in lines for size in sizes(line)]


# The numbers.


def on_eight_devices(kinds, names):
    command = [sys.executable, str(SCRIPT), json.dumps([kinds, names])]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout)


def check_eight_devices(kinds, names):
    found = on_eight_devices(kinds, names)
    assert len(found) == len(kinds) * len(names)
    errors = {name: error for name, (error, _, _) in found.items()}
    assert {name: e for name, e in errors.items() if not e < FEW_ROUNDINGS} == {}
    assert all(same for _, same, _ in found.values())
    return {name: devices for name, (_, _, devices) in found.items()}


def test_eight_devices_give_the_numbers_of_one():
    devices = check_eight_devices(["split"], ["chunks, random loss"])
    assert set(devices.values()) == {8}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_eight_devices_give_the_numbers_of_one_in_every_case(name):
    devices = check_eight_devices(list(spread_runs.KINDS), [name])
    assert devices.pop(f"{name}: whole") == 1
    assert set(devices.values()) == {8}


@pytest.mark.slow
def test_two_devices_without_examples_release_the_noise_of_one_bit_for_bit():
    one = spread_runs.run("pure noise", spread_runs.one_device())
    two = spread_runs.run("pure noise")
    assert [line["not_private"]["batch_size"] for line in two.history] == [0, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, two.params, one.params)
    assert not np.array_equal(two.params["in"], spread_runs.params()["in"])
    assert spread_runs.exact(two) == spread_runs.exact(one)


@pytest.mark.slow
@pytest.mark.parametrize("shard_params", [False, True])
def test_parameters_may_be_split_over_the_last_of_two_axes(shard_params):
    mesh = jax.make_mesh((1, 2), ("replica", "data"))
    placement = Placement(mesh, shard_params=shard_params, smallest_split=1)
    found = spread_runs.run("correlated", placement)
    one = spread_runs.run("correlated", spread_runs.one_device())
    error = spread_runs.error(spread_runs.numbers(one), spread_runs.numbers(found))
    assert error < FEW_ROUNDINGS


@pytest.mark.slow
def test_a_run_may_go_on_on_other_devices(tmp_path, capsys):
    options = {"run_dir": tmp_path / "run", "key": None}

    def stop(params):
        if stop.calls:
            raise RuntimeError("stopped")
        stop.calls += 1
        return {}

    stop.calls = 0
    checkpoints = spread_runs.training.Checkpointing(every=1)
    with pytest.raises(RuntimeError, match="stopped"):
        spread_runs.run("dpsgd", evaluate=stop, checkpointing=checkpoints, **options)
    many = spread_runs.run("dpsgd", resume=True, evaluate=lambda params: {}, **options)
    one = spread_runs.run(
        "dpsgd",
        spread_runs.one_device(),
        resume=True,
        evaluate=lambda params: {},
        logging=spread_runs.training.Logging(every=2),
        **options,
    )
    assert f"devices.number was {len(jax.devices())} and" in capsys.readouterr().err
    assert many.steps == one.steps == 5
    jax.tree.map(np.testing.assert_array_equal, many.params, one.params)


# The noise.


def drawn(layout, like):
    """Return the noise of one step, split over the devices of a layout."""

    def draw(words):
        with layout.context():
            values = noise.gaussian_noise(words, 3, like, 1.5)
        return spreading.keep_split(layout, values)

    return jax.jit(draw)(noise.key_data(5))


def repeated(values):
    """Tell whether two devices hold parts of an array that are correlated."""
    parts = [np.ravel(part.data) for part in values.addressable_shards]
    correlation = np.corrcoef(parts)[np.triu_indices(len(parts), 1)]
    return bool((np.abs(correlation) > 6 / math.sqrt(len(parts[0]))).any())


def test_parts_of_the_noise_are_those_of_one_device_and_differ():
    like = spread_runs.params()
    layout = two_devices(smallest_split=1)
    found, one = drawn(layout, like), drawn(SINGLE, like)
    jax.tree.map(np.testing.assert_array_equal, found, one)
    assert not repeated(found["in"])


def test_noise_that_every_device_draws_for_itself_is_found_out():
    layout = two_devices()
    spec = layout.split(spread_runs.params())["in"].spec

    def draw(words, part):
        return noise.gaussian_noise(words, 3, {"in": part}, 1.5)["in"]

    wrong = jax.shard_map(
        draw,
        mesh=layout.mesh,
        in_specs=(PartitionSpec(), spec),
        out_specs=spec,
        check_vma=False,
    )
    assert repeated(jax.jit(wrong)(noise.key_data(5), spread_runs.params()["in"]))


def compiled_update(layout, optimizer):
    private = spread_runs.DPSGD.optimizer(optimizer, 1)
    state = initial_state(spread_runs.params(), private, averaged=True)
    like = clipping.ClippedGrads(state.params, None, 0.8, None)
    total = (like, jnp.int32(0))
    total = jax.device_put(total, layout.split(total))
    placed = spreading.spread(layout, state)
    return make_update(private, 0.9, layout).lower(placed, total).compile()


def test_each_device_draws_the_noise_of_its_part_alone():
    layout = two_devices(shard_params=True)
    program = compiled_update(layout, optax.adam(0.1)).as_text()
    whole, rows = 6 * 1024, 1024 * 5 + 128
    assert exchanged(program) == []
    assert max(sizes(program)) == rows < whole
    assert f"[{6},{512}]" in program


def test_whole_parameters_are_put_together_from_updated_parts():
    program = compiled_update(two_devices(), optax.adam(0.1)).as_text()
    assert exchanged(program) == [6 * 1024]


# The gradient.


@pytest.mark.parametrize(
    ("engine", "microbatch_size"),
    [
        ("bookkeeping", 4),
        pytest.param("bookkeeping", None, marks=pytest.mark.slow),
        pytest.param("vmap", 4, marks=pytest.mark.slow),
    ],
)
def test_of_the_examples_only_sums_and_scalars_leave_a_device(engine, microbatch_size):
    layout = two_devices(shard_params=True, smallest_split=1)
    loss = Loss(spread_runs.loss, engine=engine, microbatch_size=microbatch_size)
    gradient = make_gradient(spread_runs.DPSGD, loss, layout)
    private = spread_runs.DPSGD.optimizer(optax.sgd(0.1), 1)
    state = initial_state(spread_runs.params(), private, averaged=False)
    rows = jax.device_put(
        (spread_runs.X[:32], spread_runs.Y[:32], np.ones(32, bool)), layout.by_rows
    )
    program = gradient.lower(
        spreading.spread(layout, state), rows[:2], rows[2], np.zeros(2, "u4"), 0
    )
    shared = {math.prod(shape) for shape in spread_runs.SHAPES.values()}
    assert set(exchanged(program.compile().as_text())) <= shared | {32}


def test_of_the_counts_of_rows_only_sums_leave_a_device():
    layout = two_devices()
    loss = Loss(spread_runs.loss, microbatch_size=4)
    options = loss.clipping_options(layout.num_devices)
    survey = spread_runs.SPARSE.survey(1.0, spread_runs.loss, **options)
    rows = jax.device_put(
        (spread_runs.X[:32], spread_runs.Y[:32], np.ones(32, bool)), layout.by_rows
    )

    def look(params, x, y, mask):
        found = survey.look(None, params, x, y, mask=mask)
        return spreading.keep_whole(layout, found)

    params = jax.device_put(spread_runs.params(), layout.whole)
    program = jax.jit(look).lower(params, *rows).compile().as_text()
    sent = set(exchanged(program))
    assert sent
    assert max(sent) <= spread_runs.SHAPES["in"][0]


# Batches.


def test_a_chunk_has_as_many_rows_on_every_device():
    layout = two_devices()
    assert feeding.num_rows(SINGLE, 11, 4) == 11
    assert feeding.num_rows(layout, 11, None) == 12
    assert feeding.num_rows(layout, 11, 4) == 16
    assert feeding.num_rows(layout, 11, 6) == 12
    assert feeding.num_rows(layout, 1, None) == 2


def test_assembled_chunks_are_those_drawn_and_padding_is_masked():
    layout, rows = two_devices(), 12
    steps = list(spread_runs.case(static_batch_size=11)["mechanism"].batches(3))
    source = ArraySource((spread_runs.X, spread_runs.Y))
    read = source.batches(feeding.own_rows(layout, iter(steps), rows))
    for drawn_chunks, chunks in zip(steps, read, strict=True):
        placed = feeding.assembled(layout, chunks, rows)
        for (indices, mask), chunk in zip(drawn_chunks, placed, strict=True):
            (x, y), keep = jax.tree.map(np.asarray, chunk)
            np.testing.assert_array_equal(x[:11], spread_runs.X[indices])
            np.testing.assert_array_equal(y[:11], spread_runs.Y[indices])
            np.testing.assert_array_equal(keep, np.append(mask, False))
            assert chunk.mask.sharding == layout.by_rows


# Where arrays go.


def test_the_optimizers_state_is_split_as_the_parameters_are():
    mechanism = spread_runs.CORRELATED
    private = mechanism.optimizer(optax.adam(0.1), 1)
    state = initial_state(spread_runs.params(), private, averaged=True)
    layout = two_devices(smallest_split=1)
    shardings = layout.state(state)
    assert {s.spec for s in jax.tree.leaves(shardings.params)} == {PartitionSpec()}
    assert shardings.average["in"].spec == PartitionSpec(None, "data")
    named = jax.tree_util.tree_leaves_with_path((state.opt_state, shardings.opt_state))
    leaves = jax.tree.leaves(state.opt_state)
    for leaf, (path, sharding) in zip(leaves, named[len(leaves) :], strict=True):
        extra = leaf.ndim - 2
        if jax.tree_util.keystr(path).endswith("['in']"):
            wanted = PartitionSpec(*[None] * extra, None, "data")
            assert sharding.spec == wanted
    split = [s for _, s in named[len(leaves) :] if s.spec != PartitionSpec()]
    assert len(split) >= 3 * 3


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((6, 8), (None, "data")),
        ((8, 6), ("data",)),
        ((8, 8), ("data",)),
        ((7, 4), (None, "data")),
        ((7, 5), ()),
        ((0, 8), ()),
        ((1,), ()),
        ((), ()),
    ],
    ids=str,
)
def test_a_leaf_is_split_along_its_largest_even_axis(shape, spec):
    layout = Placement(smallest_split=2).layout(jnp.zeros(shape))
    assert layout.split(jnp.zeros(shape)).spec == PartitionSpec(*spec)


def test_a_mesh_of_the_first_device_is_a_run_on_one():
    assert spread_runs.one_device().layout(spread_runs.params()) is SINGLE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mesh": 3}, TypeError, "mesh=3"),
        ({"shard_params": "all"}, TypeError, "shard_params='all'"),
        ({"smallest_split": 0}, ValueError, "smallest_split=0"),
    ],
)
def test_bad_placements_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Placement(**options)


def test_fit_refuses_what_is_no_placement():
    with pytest.raises(TypeError, match="placement='data'"):
        spread_runs.run("dpsgd", "data")


def test_arrays_come_back_bit_for_bit():
    layout = two_devices(smallest_split=1, shard_params=True)
    state = initial_state(
        spread_runs.params(), optax.adam(0.1), averaged=True
    )._replace(opt_state=(jax.random.key(3), np.array([-0.0, np.nan], np.float32)))
    placed = spreading.spread(layout, state)
    assert isinstance(placed.params["in"].sharding, NamedSharding)
    for back in (spreading.gathered(layout, placed), spreading.on_host(layout, placed)):
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
            if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
