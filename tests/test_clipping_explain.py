"""What explain says is what the engine does, and what XLA says that it costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import quickstart
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching

import dpjax
from dpjax import _equations
from dpjax.clipping import bookkeeping, contributions, forms, tape, vmapped
from dpjax.clipping.forms import measuring


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def ids(*shape):
    return shaped(*shape, dtype=jnp.int32)


def two_layers(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]))


def convolution(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x[None], params["kernel"], (1, 1), "SAME", dimension_numbers=numbers
    )
    return jnp.sum(jnp.sin(y + params["bias"]))


def embedding(params, words):
    return jnp.sum(jnp.sin(params[words]))


def tied_embedding(params, words):
    h = jnp.tanh(params["table"][words] @ params["w"])
    return jnp.sum(jax.nn.logsumexp(h @ params["table"].T, axis=-1))


def recurrence(params, x):
    def step(h, x):
        return jnp.tanh(h @ params["w"] + x @ params["u"] + params["b"]), None

    return jnp.sum(lax.scan(step, jnp.zeros(40), x)[0])


def weight_norm(params, x):
    w = params["v"] * params["scale"] / jnp.linalg.norm(params["v"], axis=0)
    return jnp.sum(jnp.tanh(x @ w))


MLP = {"a": shaped(50, 128), "b": shaped(128), "c": shaped(128, 64)}
COMPUTED = "fallback: computed with before it meets data"
CASES = {
    "one position": (
        two_layers,
        MLP,
        shaped(16, 50),
        ["outer product, T=1", "elementwise, written out", "outer product, T=1"],
    ),
    "few positions": (
        two_layers,
        {"a": shaped(150, 164), "b": shaped(164), "c": shaped(164, 132)},
        shaped(16, 10, 150),
        ["Gram matrices, T=10", "elementwise, written out", "Gram matrices, T=10"],
    ),
    "many positions": (
        two_layers,
        MLP,
        shaped(16, 250, 50),
        ["written out, T=250", "elementwise, written out", "written out, T=250"],
    ),
    "early convolution": (
        convolution,
        {"bias": shaped(16), "kernel": shaped(3, 3, 8, 16)},
        shaped(16, 24, 24, 8),
        ["elementwise, written out", "convolution, written out"],
    ),
    "late convolution": (
        convolution,
        {"bias": shaped(128), "kernel": shaped(3, 3, 64, 128)},
        shaped(16, 4, 4, 64),
        ["elementwise, written out", "convolution, Gram matrices"],
    ),
    "embedding": (embedding, shaped(1000, 64), ids(16, 20), ["look-up"]),
    "small table": (embedding, shaped(8, 64), ids(16, 32), ["look-up, written out"]),
    "tied embedding": (
        tied_embedding,
        {"table": shaped(300, 64), "w": shaped(64, 64)},
        ids(16, 20),
        ["look-up + Gram matrices, T=20", "Gram matrices, T=20"],
    ),
    "recurrence": (
        recurrence,
        {"b": shaped(40), "u": shaped(30, 40), "w": shaped(40, 40)},
        shaped(16, 12, 30),
        ["elementwise, written out", "Gram matrices, T=12", "Gram matrices, T=12"],
    ),
    "weight norm": (
        weight_norm,
        {"scale": shaped(64), "v": shaped(150, 64)},
        shaped(16, 8, 150),
        [COMPUTED, COMPUTED],
    ),
}


# Against XLA.


def unrolled(jaxpr, consts, args):
    """Evaluate a jaxpr without loops, of which XLA counts one step only."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    for eqn in jaxpr.eqns:
        values = [_equations.read(env, atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, results(eqn, values), strict=True))
    return [_equations.read(env, atom) for atom in jaxpr.outvars]


def results(eqn, values):
    params = eqn.params
    if _equations.is_call(eqn):
        return unrolled(params["jaxpr"].jaxpr, params["jaxpr"].consts, values)
    if eqn.primitive.name == "cond":
        here = [p is None or "cpu" in p for p in params["branches_platforms"]]
        branch = params["branches"][here.index(True)]
        return unrolled(branch.jaxpr, branch.consts, values[1:])
    if not _equations.is_scan(eqn):
        return _equations.apply(eqn, values)
    first, last = _equations.scan_bounds(eqn)
    carry, steps, body = values[first:last], [], _equations.body(eqn)
    for i in range(params["length"]):
        now = [*values[:first], *carry, *(xs[i] for xs in values[last:])]
        out = unrolled(body.jaxpr, body.consts, now)
        carry = out[: last - first]
        steps.append(out[last - first :])
    return [*carry, *map(jnp.stack, zip(*steps, strict=True))]


def leaf_programs(loss, params, batch):
    """Return, for each leaf, what measures and sums it, and arguments for that."""
    leaves = jax.tree.leaves(params)
    found = tape.record(
        lambda params, x: (loss(params, x), None), params, shaped_like_one(batch)
    )
    entries = jax.eval_shape(found.entries, leaves)
    run = jax.vmap(found.run, in_axes=(None, 0))
    _, seen = jax.eval_shape(run, entries, [batch])

    def program(i, leaves, entries, seen, weights):
        all_of_them = contributions.assemble(found, leaves, entries, seen, len(weights))
        squares = measuring.added_up([all_of_them[i].squares()])
        return *squares, all_of_them[i].weighted_sum(weights)

    args = (leaves, entries, seen, shaped(batch.shape[0]))
    return [functools.partial(program, i) for i in range(len(leaves))], args


def shaped_like_one(batch):
    return jax.ShapeDtypeStruct(batch.shape[1:], batch.dtype)


@pytest.mark.parametrize("name", CASES)
def test_operations_are_within_a_quarter_of_what_xla_counts(name):
    loss, params, batch, _ = CASES[name]
    programs, args = leaf_programs(loss, params, batch)
    for row, program in zip(
        dpjax.explain(loss, params, batch).rows, programs, strict=True
    ):
        traced = jax.make_jaxpr(program)(*args)
        without_loops = jax.jit(
            functools.partial(unrolled, traced.jaxpr, traced.consts)
        )
        compiled = without_loops.lower(jax.tree.leaves(args)).compile()
        flops = compiled.cost_analysis()["flops"]
        assert abs(row.operations - flops) <= flops / 4, (row, flops)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_within_a_factor_of_three_of_what_xla_allocates(name):
    loss, params, batch, _ = CASES[name]
    programs, args = leaf_programs(loss, params, batch)
    rows = dpjax.explain(loss, params, batch).rows
    row, program = max(
        zip(rows, programs, strict=True), key=lambda pair: pair[0].operations
    )
    memory = jax.jit(program).lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 3 * row.temporaries
    assert row.temporaries <= 3 * memory.temp_size_in_bytes


@pytest.mark.parametrize("name", sorted(set(CASES) - {"recurrence", "embedding"}))
def test_the_plain_gradient_is_within_a_quarter_of_what_xla_counts(name):
    loss, params, batch, _ = CASES[name]
    found = dpjax.explain(loss, params, batch)

    def total(params, batch):
        return jnp.sum(jax.vmap(loss, (None, 0))(params, batch))

    counted = jax.jit(jax.grad(total)).lower(params, batch).compile().cost_analysis()
    whole = counted["flops"] + counted.get("transcendentals", 0)
    if name == "small table":
        # Nothing but a scatter, which XLA counts as one step of a loop.
        assert found.gradient_operations <= 10 * found.plain_operations
        return
    assert abs(found.gradient_operations - whole) <= whole / 4
    assert found.plain_operations < found.gradient_operations


@pytest.mark.parametrize(
    ("shape", "positions"), [((50, 128), 1), ((128, 64), 1), ((150, 164), 10)]
)
def test_plain_operations_of_a_matrix_are_two_a_multiply_add(shape, positions):
    rows, _ = shape
    batch = shaped(16, positions, rows)
    (row,) = dpjax.explain(lambda w, x: jnp.sum(x @ w), shaped(*shape), batch).rows
    products = 2 * 16 * positions * shape[0] * shape[1]
    assert products <= row.plain_operations <= 1.1 * products


# Against the engine.


@pytest.mark.parametrize("name", CASES)
def test_the_words_name_what_is_done(name):
    loss, params, batch, rules = CASES[name]
    assert [row.rule for row in dpjax.explain(loss, params, batch).rows] == rules


FORMS = {
    "outer product": forms.Outer | forms.Part,
    "Gram matrices": forms.Outer | forms.Part | forms.Recurrent,
    "look-up": forms.Rows,
    "look-up + ": forms.Table,
    "convolution, Gram": forms.Convolution,
    "convolution, written out": forms.Formed,
    "look-up, written out": forms.Formed,
    "written out": forms.Formed,
    "elementwise": forms.Formed,
    "fallback": forms.Formed,
    "unused": forms.Nothing,
}


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "mlp_over_positions",
        "conv_groups",
        "flax_cnn_with_pooling",
        "norm_layer",
        "weight_norm",
        "attention_with_packed_and_sliced_weights",
        "transformer_with_tied_embedding",
        "embedding_bag",
        "gathered_entries",
        "rnn_lstm_by_hand",
        "scan_over_layers_with_remat",
        "experts_by_cond",
        "custom_vjp_inside_scan",
        "dropout_with_a_key_per_example",
        "several_parameter_arguments",
        "aux_of_every_kind",
    ],
)
def test_the_words_agree_with_the_forms_that_the_engine_used(name, monkeypatch):
    case = losses.build(name)
    used, assemble = [], contributions.assemble

    def spy(*args):
        used[:] = assemble(*args)
        return list(used)

    rows = dpjax.explain(case.loss, *case.args, **case.options).rows
    monkeypatch.setattr(bookkeeping.contributions, "assemble", spy)
    fn = dpjax.clipped_grad(case.loss, 1.0, engine="bookkeeping", **case.options)
    jax.eval_shape(fn, *case.args)
    assert len(used) == len(rows) == len(jax.tree.leaves(case.params))
    for row, gradient in zip(rows, used, strict=True):
        known = max((p for p in FORMS if row.rule.startswith(p)), key=len)
        assert isinstance(gradient.form, FORMS[known]), row


@pytest.mark.parametrize("name", ["weight norm", "few positions"])
def test_the_engine_is_the_one_that_auto_takes(name, monkeypatch):
    loss, params, batch, _ = CASES[name]
    taken, fast, slow = [], bookkeeping.clipped_sum, vmapped.clipped_sum

    def fast_spy(*args):
        taken.append("bookkeeping")
        return fast(*args)

    def slow_spy(*args):
        taken.append("vmap")
        return slow(*args)

    monkeypatch.setattr(bookkeeping, "clipped_sum", fast_spy)
    monkeypatch.setattr(vmapped, "clipped_sum", slow_spy)
    jax.eval_shape(dpjax.clipped_grad(loss, 1.0), params, batch)
    found = dpjax.explain(loss, params, batch)
    assert [found.engine] == taken
    assert ("auto" in str(found)) == (found.engine == "vmap")


# Reasons.


def reason(loss, params, batch):
    (row,) = dpjax.explain(loss, params, batch).rows
    return row.rule


twist = core.Primitive("twist")
twist.def_impl(lambda w, x: w * x * x)
twist.def_abstract_eval(lambda w, x: w)
ad.primitive_jvps[twist] = lambda primals, tangents: jax.jvp(
    lambda w, x: w * x * x, primals, tuple(map(ad.instantiate_zeros, tangents))
)


def test_a_primitive_without_a_rule_is_named():
    def batched(args, dims):
        w, x = (
            arg if dim is None else jnp.moveaxis(arg, dim, 0)
            for arg, dim in zip(args, dims, strict=True)
        )
        return w * x * x, 0

    batching.primitive_batchers[twist] = batched
    found = reason(lambda w, x: jnp.sum(twist.bind(w, x)), shaped(4), shaped(8, 4))
    assert found == "fallback: no rule for twist"


def test_a_division_by_a_parameter_is_named():
    found = reason(lambda w, x: jnp.sum(x / w), shaped(4), shaped(8, 4))
    assert found == "fallback: no rule for div"


def test_a_look_up_of_single_entries_is_a_kind_without_a_rule():
    def loss(w, entries):
        return jnp.sum(jnp.sin(w[entries[0], entries[1]]))

    found = reason(loss, shaped(4, 5), ids(8, 2, 3))
    assert found == "fallback: no rule for this kind of gather"


def test_complex_numbers_are_a_reason():
    w, x = shaped(4, dtype=jnp.complex64), shaped(8, 4)
    found = reason(lambda w, x: jnp.sum(jnp.abs(w * x)), w, x)
    assert found == "fallback: complex numbers"


def test_a_parameter_that_is_multiplied_with_and_added_is_used_in_several_ways():
    found = reason(
        lambda w, x: jnp.sum(jnp.tanh(x @ w)) + jnp.sum(jnp.sin(w + x[:, None])),
        shaped(30, 30),
        shaped(8, 30),
    )
    assert found == "fallback: used in several ways that have no common form"


def test_a_matrix_made_of_a_vector_is_broadcast():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ jnp.broadcast_to(w, (5, 4))))

    found = reason(loss, shaped(4), shaped(8, 5))
    assert found == "fallback: broadcast before it meets data"


def test_an_unused_parameter_is_unused_and_costs_nothing():
    params = {"used": shaped(4), "idle": shaped(7)}
    idle, _ = dpjax.explain(
        lambda p, x: jnp.vdot(p["used"], x), params, shaped(8, 4)
    ).rows
    assert (idle.rule, idle.taps, idle.plain_operations) == ("unused", 0, 0)
    assert idle.operations == idle.temporaries == 0


# The call.


def test_shapes_give_the_same_as_arrays():
    case = losses.build("transformer_with_tied_embedding")
    given = (case.params, case.batch)
    shapes = jax.tree.map(lambda leaf: shaped(*leaf.shape, dtype=leaf.dtype), given)
    found = dpjax.explain(case.loss, case.params, *case.batch)
    assert dpjax.explain(case.loss, shapes[0], *shapes[1]) == found


def test_nothing_is_run():
    calls = []

    def count(label):
        calls.append(label)
        return np.float32(label)

    def loss(w, x, label):
        scale = jax.pure_callback(count, shaped(), label, vmap_method="sequential")
        return scale * jnp.vdot(w, x)

    batch = (jnp.ones((8, 4)), jnp.arange(8))
    dpjax.explain(loss, jnp.ones(4), *batch)
    assert calls == []
    dpjax.clipped_grad(loss, 1.0)(jnp.ones(4), *batch).sum.block_until_ready()
    assert calls


def test_a_model_of_a_trillion_operations_is_explained_at_once():
    found = dpjax.explain(
        lambda w, x: jnp.sum(x @ w), shaped(10**6, 10**6), shaped(64, 10**6)
    )
    assert found.rows[0].plain_operations >= 128 * 10**12


def test_the_table_is_printed_and_has_every_leaf(capsys):
    case = losses.build("transformer_with_tied_embedding")
    found = dpjax.explain(case.loss, case.params, *case.batch)
    assert capsys.readouterr().out == f"{found}\n"
    lines = str(found).splitlines()
    assert len(lines) == len(found.rows) + 3
    for row, line in zip(found.rows, lines[1:], strict=False):
        assert line.startswith(row.path)
        assert row.rule in line
        assert str(row.shape) in line
    named, _ = jax.tree.flatten_with_path(case.params)
    assert [row.path for row in found.rows] == [
        jax.tree_util.keystr(path) for path, _ in named
    ]


def test_the_quickstart_model_is_all_short_norms():
    x, y = shaped(400, 4), ids(400)
    params = jax.eval_shape(
        lambda: quickstart.model.init(jax.random.key(0), jnp.zeros(4))
    )
    found = dpjax.explain(quickstart.loss_fn, params, x, y)
    short = ["elementwise, written out", "outer product, T=1"]
    assert [row.rule for row in found.rows] == 2 * short
    assert found.batch_size == 400


def test_a_value_that_programs_read_cannot_be_changed():
    found = dpjax.explain(two_layers, MLP, shaped(16, 50))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows[0].taps = 2


def test_a_microbatch_needs_less_memory_and_the_same_operations():
    whole = dpjax.explain(two_layers, MLP, shaped(16, 50))
    pieces = dpjax.explain(two_layers, MLP, shaped(16, 50), microbatch_size=4)
    padded = dpjax.explain(two_layers, MLP, shaped(16, 50), microbatch_size=6)
    assert pieces.temporaries < whole.temporaries
    assert pieces.plain_operations == whole.plain_operations < padded.plain_operations
    assert pieces.batch_size == padded.batch_size == 16


def test_every_option_of_clipped_grad_is_taken():
    def loss(scale, key, params, x, temperature):
        h = x * jax.random.bernoulli(key, 0.5, x.shape) / temperature
        return jnp.sum(jnp.tanh(h @ params)) * scale, h

    args = (shaped(), jax.random.key(0), shaped(4, 3), shaped(8, 4), shaped())
    scale, params = dpjax.explain(
        loss,
        *args,
        argnums=(0, 2),
        prng_argnum=1,
        batch_argnums=3,
        has_aux=True,
        keep_batch_dim=True,
    ).rows
    assert (scale.path, params.path) == ("[0]", "[1]")
    assert params.rule == "outer product, T=1"


def test_work_that_leaves_share_counts_once_in_all():
    loss, params, batch, _ = CASES["weight norm"]
    found = dpjax.explain(loss, params, batch)
    assert found.operations < sum(row.operations for row in found.rows)
    assert found.plain_operations < sum(row.plain_operations for row in found.rows)


def test_an_empty_batch_costs_nothing():
    found = dpjax.explain(two_layers, MLP, shaped(0, 50))
    assert found.batch_size == found.plain_operations == 0


@pytest.mark.parametrize(
    ("options", "batch", "error", "message"),
    [
        ({"microbatch_size": 0}, (8, 4), ValueError, "an integer >= 1"),
        ({"argnums": 2}, (8, 4), ValueError, "at least 3 positional arguments"),
        ({"argnums": 1}, (8, 4), ValueError, "leading batch axis"),
        ({}, (), ValueError, "leading batch axis"),
    ],
)
def test_bad_arguments_are_refused(options, batch, error, message):
    with pytest.raises(error, match=message):
        dpjax.explain(lambda w, x: jnp.vdot(w, x), shaped(), shaped(*batch), **options)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match="scalar"):
        dpjax.explain(lambda w, x: w * x, shaped(4), shaped(8, 4))
