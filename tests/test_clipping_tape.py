"""The tape: which taps are found, and what is seen there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

import dpjax
from dpjax import _equations
from dpjax.clipping import tape
from dpjax.clipping.tape import guard
from dpjax.clipping.tape.views import View, view_of

BATCH = 3

# These programs run once: compiling them is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def record(loss, params, x):
    return tape.record(lambda params, x: (loss(params, x), ()), params, x)


def taps(loss, params, x):
    """Return `(primitive, leaf or "computed")` of every weight at every tap."""
    found = record(loss, params, x)
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in leaves_of(params)]
    return sorted(
        (site.primitive, names[root] if isinstance(root, int) else "computed")
        for site in found.sites
        for root in [site.source.root]
    )


def leaves_of(params):
    return jax.tree_util.tree_leaves_with_path(params)


# Which taps are found.

SQUARE = {"w": draw((4, 4)), "b": draw((4,))}
STACK = {"w": draw((5, 4, 4)), "b": draw((5, 4))}
ROW, ROWS = draw((4,), 1), draw((5, 4), 1)


def dense(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))


def tied(params, ids):
    h = params["w"][ids]
    return jnp.sum(jnp.tanh(h) @ params["w"].T)


def recurrent(params, x):
    def step(h, x_t):
        return jnp.tanh(h @ params["w"] + x_t), None

    return jnp.sum(lax.scan(step, jnp.zeros(4), x)[0])


def layers(params, x):
    def layer(h, leaf):
        return jnp.tanh(h @ leaf["w"] + leaf["b"]), None

    return jnp.sum(lax.scan(layer, x, params)[0])


def nested(params, x):
    def layer(h, leaf):
        def step(carry, h_t):
            carry = jnp.tanh(carry @ leaf["w"] + h_t)
            return carry, carry

        return lax.scan(step, jnp.zeros(4), h)[1], None

    return jnp.sum(lax.scan(layer, x, params)[0])


def learned_start(params, x):
    def step(h, x_t):
        return 0.5 * h + x_t, None

    return jnp.sum(lax.scan(step, params["b"], x)[0])


def stopped(params, x):
    return jnp.sum(x @ lax.stop_gradient(params["w"]) * params["b"])


def with_l2_term(params, x):
    return jnp.sum(x @ params["w"]) + 0.1 * jnp.sum(params["b"] ** 2)


def computed_first(params, x):
    return jnp.sum(x @ (params["w"] / jnp.linalg.norm(params["w"])))


@jax.custom_vjp
def scaled(w, x):
    return w * x


scaled.defvjp(lambda w, x: (w * x, (w, x)), lambda kept, g: (2 * g * kept[1], g))


def with_custom_vjp(params, x):
    return jnp.sum(scaled(params["b"], x))


def indices_only(params, x):
    _, best = lax.top_k(x @ params["w"], 2)
    return jnp.sum(x[best] * params["b"][:2])


def constants_only(params, x):
    fixed = jnp.eye(4) @ jnp.ones((4, 4))
    return jnp.sum(x @ fixed) + jnp.sum(x * params["b"])


def packed(params, x):
    packed = jnp.concatenate([params["w"], params["b"][None]])
    return jnp.sum(jnp.concatenate([x, jnp.ones(1)]) @ packed)


TAPS = {
    dense: (SQUARE, ROW, [("add", "b"), ("dot_general", "w")]),
    tied: (
        {"w": draw((4, 4))},
        jnp.array([1, 2]),
        [("dot_general", "w"), ("gather", "w")],
    ),
    recurrent: (SQUARE, ROWS, [("dot_general", "w")]),
    layers: (STACK, ROW, [("add", "b"), ("dot_general", "w")]),
    nested: (STACK, ROWS, [("dot_general", "w")]),
    learned_start: (SQUARE, ROWS, [("identity", "b")]),
    stopped: (SQUARE, ROW, [("mul", "b")]),
    with_l2_term: (SQUARE, ROW, [("add", "computed"), ("dot_general", "w")]),
    computed_first: (SQUARE, ROW, [("dot_general", "computed")]),
    with_custom_vjp: (SQUARE, ROW, [("custom_vjp_call", "b")]),
    indices_only: (SQUARE, ROW, [("mul", "computed")]),
    constants_only: (SQUARE, ROW, [("mul", "b")]),
    packed: (SQUARE, ROW, [("dot_general", "computed")]),
}


@pytest.mark.parametrize("loss", TAPS, ids=lambda loss: loss.__name__)
def test_taps_are_where_parameters_meet_the_example(loss):
    params, x, expected = TAPS[loss]
    assert taps(loss, params, x) == expected


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit], ids=["remat", "jit"])
@pytest.mark.parametrize("loss", [dense, tied, recurrent, layers, nested])
def test_remat_and_jit_are_looked_through(loss, wrap):
    params, x, expected = TAPS[loss]
    assert taps(wrap(loss), params, x) == expected


def test_a_loss_of_parameters_alone_is_one_tap():
    found = record(lambda params, _: jnp.sum(params["w"] ** 2), SQUARE, ROW)
    assert [site.primitive for site in found.sites] == ["add"]
    assert found.sites[0].source.leaves == {1}


def test_a_loss_without_parameters_has_no_tap():
    assert record(lambda _, x: jnp.sum(x**2), {}, ROW).sites == ()
    assert record(lambda _, x: jnp.sum(x**2), SQUARE, ROW).sites == ()


def test_the_pieces_of_a_concatenated_weight_are_known():
    (site,) = record(packed, SQUARE, ROW).sites
    places = [(p.axis, p.start, p.size, p.source.root) for p in site.source.pieces]
    assert places == [(0, 0, 4, 1), (0, 4, 1, 0)]


def test_a_result_of_integers_carries_no_cotangent():
    def loss(w, x):
        ordered, moved, ids = lax.sort((x, w, jnp.arange(4)), num_keys=1)
        return jnp.vdot(ordered + ids, moved)

    (site,) = record(loss, draw((4,)), ROW).sites
    assert (site.primitive, len(site.results)) == ("sort", 2)


@pytest.mark.parametrize(
    ("loss", "lengths", "stacks"),
    [
        (dense, (), {"w": (), "b": ()}),
        (recurrent, (5,), {"w": (False,)}),
        (layers, (5,), {"w": (True,), "b": (True,)}),
        (nested, (5, 5), {"w": (True, False)}),
        (learned_start, (), {"b": ()}),
    ],
)
def test_scans_around_a_tap_are_known_and_so_is_what_steps(loss, lengths, stacks):
    params, x, _ = TAPS[loss]
    names = sorted(params)
    sites = record(loss, params, x).sites
    assert {names[site.source.root]: site.source.stack for site in sites} == stacks
    assert {site.lengths for site in sites} == {lengths}


# What is seen.


def seen_at(loss, params, x):
    """Return the tape and what each tap of one example saw."""
    found = record(loss, params, x)
    entries = found.entries(jax.tree.leaves(params))
    return found, found.run(entries, [x])


def test_the_loss_is_replayed_and_the_cotangents_are_its_derivatives():
    found, ((value, _), seen) = seen_at(dense, SQUARE, ROW)
    out = ROW @ SQUARE["w"] + SQUARE["b"]
    np.testing.assert_allclose(value, dense(SQUARE, ROW), rtol=1e-6)
    for site in found.sites:
        (cotangent,) = seen[site.tap].cotangents
        np.testing.assert_allclose(cotangent, 1 - jnp.tanh(out) ** 2, rtol=1e-5)
    (product,) = (site for site in found.sites if site.primitive == "dot_general")
    np.testing.assert_array_equal(seen[product.tap].inputs[0], ROW)


def test_a_product_and_its_bias_share_one_cotangent():
    _, (_, (product, bias)) = seen_at(dense, SQUARE, ROW)
    assert product.cotangents[0] is bias.cotangents[0]


def test_a_product_that_is_used_elsewhere_has_a_cotangent_of_its_own():
    def loss(params, x):
        product = x @ params["w"]
        return jnp.sum(jnp.tanh(product + params["b"])) + jnp.sum(product)

    _, (_, (product, bias)) = seen_at(loss, SQUARE, ROW)
    np.testing.assert_allclose(product.cotangents[0], bias.cotangents[0] + 1, rtol=1e-6)


def gates(params, x):
    """Two products, cut into gates before these are added."""
    pairs = zip(
        jnp.split(x @ params["w"], 2),
        jnp.split(jnp.flip(x) @ params["u"] + params["b"], 2),
        strict=True,
    )
    first, last = (one + other for one, other in pairs)
    return jnp.sum(jax.nn.sigmoid(first) * jnp.tanh(last))


GATES = {"b": draw((4,)), "u": draw((4, 4), seed=1), "w": draw((4, 4), seed=2)}


def test_products_whose_pieces_are_added_share_one_cotangent():
    _, (_, seen) = seen_at(gates, GATES, ROW)
    assert len({id(one.cotangents[0]) for one in seen}) == 1
    x_w = ROW @ GATES["w"]
    x_u = jnp.flip(ROW) @ GATES["u"] + GATES["b"]
    expected = jax.grad(lambda z: jnp.sum(jax.nn.sigmoid(z[:2]) * jnp.tanh(z[2:])))(
        x_w + x_u
    )
    np.testing.assert_allclose(seen[0].cotangents[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        lambda x, w, u: jnp.split(x @ w, 2)[::-1],  # the pieces of the other half
        lambda x, w, u: [jnp.flip(part) for part in jnp.split(x @ w, 2)],
        lambda x, w, u: [2 * part for part in jnp.split(x @ w, 2)],
    ],
)
def test_products_that_are_cut_otherwise_have_cotangents_of_their_own(other):
    def loss(params, x):
        pairs = zip(
            other(x, params["w"], params["u"]),
            jnp.split(x @ params["u"] + params["b"], 2),
            strict=True,
        )
        first, last = (one + another for one, another in pairs)
        return jnp.sum(jax.nn.sigmoid(first) * jnp.tanh(last))

    _, (_, seen) = seen_at(loss, GATES, ROW)
    assert len({id(one.cotangents[0]) for one in seen}) == 2
    batch = jnp.stack([ROW, -ROW])
    for fast, slow in zip(*clipped_by_both(loss, GATES, batch), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-5)


def doubled(params, x):
    """Both uses of the last product are of one sum."""
    other = 3.0 * (x @ params["w"])
    product = x @ params["u"]
    return jnp.sum((product + product) + other)


def doubled_of_another_shape(params, x):
    other = 3.0 * (x @ params["w"])
    product = x @ params["u"][:, :3]
    return jnp.sum(other) + jnp.sum(product + product)


def doubled_in_scan(params, x):
    def step(h, x_t):
        other = 2.0 * (x_t @ params["w"])
        product = x_t @ params["u"]
        return jnp.tanh(other + h), product + product

    h, rows = lax.scan(step, params["b"], jnp.stack([x, 2 * x, -x]))
    return jnp.sum(h) + jnp.sum(rows)


def unread_in_scan(params, x):
    """The body of the scan does not read the example that it is given."""

    def step(h, x_t):
        del x_t
        return jnp.tanh(h @ params["u"]), None

    return jnp.sum(lax.scan(step, params["b"], x)[0] * x)


@pytest.mark.parametrize(
    "loss", [doubled, doubled_of_another_shape, doubled_in_scan, unread_in_scan]
)
def test_what_is_used_twice_or_never_is_told_apart(loss):
    batch = jnp.stack([ROW, -ROW, 3 * ROW])
    for fast, slow in zip(*clipped_by_both(loss, GATES, batch), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-5)


@jax.custom_vjp
def two_results(w, x):
    return w * x, jnp.sin(w) + x


two_results.defvjp(
    lambda w, x: (two_results(w, x), (w, x)),
    lambda kept, g: (
        g[0] * kept[1] + g[1] * jnp.cos(kept[0]),
        g[0] * kept[0] + g[1],
    ),
)


def test_a_tap_of_two_results_writes_down_both_cotangents():
    def loss(params, x):
        first, last = two_results(params["w"][0], x)
        return jnp.sum(jnp.tanh(first + params["b"])) + jnp.sum(last**2)

    batch = jnp.stack([ROW, -ROW])
    for fast, slow in zip(*clipped_by_both(loss, SQUARE, batch), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-5)


def clipped_by_both(loss, params, batch):
    """Return the leaves of the clipped sums by both engines."""
    return [
        jax.tree.leaves(dpjax.clipped_grad(loss, 1.0, engine=name)(params, batch).sum)
        for name in ("bookkeeping", "vmap")
    ]


def primitives_of(fn, *args):
    """Return the names of all primitives in a jaxpr, nested ones too."""
    names, ahead = set(), [jax.make_jaxpr(fn)(*args).jaxpr]
    while ahead:
        for eqn in ahead.pop().eqns:
            names.add(eqn.primitive.name)
            ahead += core.jaxprs_in_params(eqn.params)
    return names


def test_what_no_example_takes_part_in_is_evaluated_once():
    found = record(computed_first, SQUARE, ROW)
    leaves = jax.tree.leaves(SQUARE)
    entries = found.entries(leaves)
    replay = jax.vmap(found.run, in_axes=(None, 0))
    assert {"sqrt", "div"} <= primitives_of(found.entries, leaves)
    assert not {"sqrt", "div"} & primitives_of(replay, entries, [ROW[None]])


def test_a_loop_does_not_keep_what_follows_from_one_array_that_it_keeps():
    def loss(w, x):
        def step(h, row):
            gate = jax.nn.sigmoid(h @ w + row)
            return gate * jnp.tanh(h), None

        return jnp.sum(lax.scan(step, jnp.zeros(4), x)[0])

    gradient = dpjax.clipped_grad(loss, 1.0, engine="bookkeeping")
    traced = jax.make_jaxpr(gradient)(draw((4, 4)), draw((BATCH, 5, 4)))
    forward, _ = scans(traced.jaxpr)
    rows = [var for var in forward.outvars if var.aval.shape[0] == 5]
    # What meets the weight, and three for the gate and the tanh: not one minus the
    # gate, too.
    assert len(rows) == 4


def test_what_steps_through_a_scan_alone_is_evaluated_once():
    def loss(params, x):
        def layer(h, leaf):
            return h @ (leaf["w"] / jnp.linalg.norm(leaf["w"])), None

        return jnp.sum(lax.scan(layer, x, params)[0])

    found = record(loss, STACK, ROW)
    entries = found.entries(jax.tree.leaves(STACK))
    replay = jax.vmap(found.run, in_axes=(None, 0))
    assert not {"sqrt", "div"} & primitives_of(replay, entries, [ROW[None]])


def scans(jaxpr):
    """Return the equations of all loops that are in no other, in order."""
    found = []
    for eqn in jaxpr.eqns:
        inner = [inside for part in _equations.jaxprs_in(eqn) for inside in scans(part)]
        found += [eqn] if _equations.is_scan(eqn) else inner
    return found


# The derivative of a tap itself.


def pulled_back(loss, weights, batch):
    """Return per-example gradients, as sums of what the taps give."""
    found = record(loss, weights, batch[0])
    entries = found.entries(weights)
    _, seen = jax.vmap(found.run, in_axes=(None, 0))(entries, [batch])
    totals = [0.0 for _ in weights]
    for site in found.sites:
        values = site.weights(weights, entries)
        part = jax.vmap(site.pull_back, in_axes=(0, None))(seen[site.tap], values)
        for view in reversed(site.source.views):
            part = view.undo(part, 1)
        totals[site.source.root] += part
    return totals


def in_scan(step):
    def loss(weights, x):
        shared, stepped = weights

        def body(total, pair):
            each, x_t = pair
            return total + jnp.sum(step(shared, each, x_t)), None

        return lax.scan(body, jnp.zeros(()), (stepped, x))[0]

    return loss


def in_nested_scan(step):
    """The first weight steps with the outer scan only, the second with the inner."""

    def loss(weights, x):
        def outer(total, pair):
            first, rows = pair

            def inner(total, pair):
                second, x_t = pair
                return total + jnp.sum(step(first, second, x_t)), None

            return lax.scan(inner, total, (weights[1], rows))[0], None

        rows = jnp.stack([x, 2 * x, -x, 0.5 * x, x**2])
        return lax.scan(outer, jnp.zeros(()), (weights[0], rows))[0]

    return loss


GENERIC = {
    "division": lambda v, w, x: x / w + v / (x + 3),
    "power": lambda v, w, x: w**x + jnp.abs(x) ** v,
    "where": lambda v, w, x: jnp.sin(jnp.where(x > 0, w, v)),
    "clamp": lambda v, w, x: jnp.sin(lax.clamp(v, 3 * x + 3, w)),
    "sorted": lambda v, w, x: lax.sort((x, w), num_keys=1)[1] * x + v * x,
    "atan2": lambda v, w, x: jnp.arctan2(w, x) * jnp.arctan2(x, v),
    "product_of_both": lambda v, w, x: jnp.vdot(v, x) * (w @ (x * 2)),
}
AROUND = {
    "alone": (lambda step: lambda ws, x: jnp.sum(step(*ws, x)), (4,), (4,), (4,)),
    "scan": (in_scan, (4,), (5, 4), (5, 4)),
    "nested_scan": (in_nested_scan, (5, 4), (5, 4), (5, 4)),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", GENERIC)
def test_the_derivative_of_any_tap_gives_the_gradient(name, around):
    wrap, first, second, data = AROUND[around]
    loss = wrap(GENERIC[name])
    weights = [jnp.abs(draw(first)) + 2, jnp.abs(draw(second, 1)) + 2]
    batch = draw((BATCH, *data), 2)

    def both(weights, batch):
        oracle = jax.vmap(jax.grad(loss), in_axes=(None, 0))(weights, batch)
        return pulled_back(loss, weights, batch), oracle

    with jax.enable_x64(True):
        args = jax.tree.map(lambda leaf: leaf.astype(float), (weights, batch))
        got, want = jax.jit(both, compiler_options=UNOPTIMISED)(*args)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


# Views.

VIEWS = {
    "transpose": (lambda w: jnp.transpose(w, (2, 0, 1)), "transpose"),
    "reshape": (lambda w: w.reshape(4, 6), "reshape"),
    "new_axis": (lambda w: lax.broadcast_in_dim(w, (2, 1, 3, 4), (0, 2, 3)), "reshape"),
    "squeeze": (lambda w: lax.squeeze(w[:, :1], (1,)), "reshape"),
    "broadcast": (
        lambda w: lax.broadcast_in_dim(w, (5, 2, 3, 4), (1, 2, 3)),
        "broadcast",
    ),
    "grown_axis": (
        lambda w: lax.broadcast_in_dim(w[:, :1], (2, 6, 4), (0, 1, 2)),
        "broadcast",
    ),
    "reverse": (lambda w: lax.rev(w, (0, 2)), "reverse"),
    "cast": (lambda w: w.astype(jnp.bfloat16), "cast"),
}


def view_in(fn, w):
    """Return the view that the last equation of `fn` is, and what goes into it."""
    closed = jax.make_jaxpr(fn)(w)
    eqn = closed.jaxpr.eqns[-1]
    shape = eqn.invars[0].aval.shape
    return view_of(eqn.primitive.name, eqn.params, shape), shape


@pytest.mark.parametrize("name", VIEWS)
def test_undoing_a_view_is_the_adjoint_of_applying_it(name):
    fn, kind = VIEWS[name]
    view, shape = view_in(fn, jnp.zeros((2, 3, 4)))
    assert (view.kind, view.shape) == (kind, shape)
    w = draw(shape)
    applied = view.apply(w)
    assert applied.shape == jax.eval_shape(fn, jnp.zeros((2, 3, 4))).shape
    g = draw(applied.shape, 1)
    rtol = 1e-2 if kind == "cast" else 1e-5
    inner = jnp.vdot(applied.astype(jnp.float32), g)
    np.testing.assert_allclose(inner, jnp.vdot(w, view.undo(g, 0)), rtol=rtol)
    assert view.undo(g, 0).shape == w.shape


@pytest.mark.parametrize("name", VIEWS)
def test_only_a_view_that_keeps_the_norm_is_isometric(name):
    fn, kind = VIEWS[name]
    view, shape = view_in(fn, jnp.zeros((2, 3, 4)))
    assert view.is_isometric == (kind != "broadcast")
    if view.is_isometric and kind != "cast":
        w = draw(shape)
        norms = [jnp.linalg.norm(x.ravel()) for x in (w, view.apply(w))]
        np.testing.assert_allclose(*norms, rtol=1e-6)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_acts_behind_the_leading_axes_of_scans(name):
    fn, _ = VIEWS[name]
    view, shape = view_in(fn, jnp.zeros((2, 3, 4)))
    w = draw((3, 2, *shape))
    applied = view._replace(depth=2).apply(w)
    each = jax.vmap(jax.vmap(view.apply))(w)
    np.testing.assert_array_equal(applied, each)
    g = draw((5, *applied.shape), 1)
    undone = view._replace(depth=2).undo(g, 1)
    each = jax.vmap(jax.vmap(jax.vmap(functools.partial(view.undo, lead=0))))(g)
    np.testing.assert_allclose(undone, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fn", [jnp.sin, jnp.cumsum, jnp.negative, lambda w: w[:1]])
def test_what_changes_or_drops_values_is_no_view(fn):
    assert view_in(fn, jnp.zeros((4,)))[0] is None


def test_a_transposed_weight_has_its_leaf_for_a_root():
    params, ids, _ = TAPS[tied]
    sites = record(tied, params, ids).sites
    views = {site.primitive: site.source.views for site in sites}
    assert views["gather"] == ()
    assert [(view.kind, view.detail) for view in views["dot_general"]] == [
        ("transpose", (1, 0))
    ]
    assert isinstance(views["dot_general"][0], View)


# Marks.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_marks_stand_for_what_is_not_finite_and_for_nothing_else(dtype):
    largest = jnp.finfo(dtype).max
    value = jnp.asarray([1.0, jnp.nan, jnp.inf, -jnp.inf, 0.0, -largest], dtype)
    marks = guard.finite(value)
    assert marks.dtype == dtype
    assert jnp.isfinite(marks).all()
    bad = np.array([False, True, True, True, False, False])
    np.testing.assert_array_equal(guard.is_marked(marks), bad)
    np.testing.assert_array_equal(np.isnan(guard.unmarked(marks)), bad)
    np.testing.assert_array_equal(guard.unmarked(marks)[~bad], value[~bad])


def test_a_cotangent_that_is_not_finite_comes_back_marked():
    value, pull = jax.vjp(guard.guarded, jnp.asarray([1.0, jnp.nan, 2.0]))
    np.testing.assert_array_equal(value, [1.0, jnp.nan, 2.0])
    (back,) = pull(jnp.asarray([jnp.inf, 3.0, jnp.nan]))
    np.testing.assert_array_equal(guard.is_marked(back), [True, False, True])
    assert back[1] == 3


def test_what_is_seen_at_a_tap_is_finite():
    def loss(params, x):
        return jnp.sum(jnp.log(x @ params["w"] * 0))

    _, (_, (product,)) = seen_at(loss, {"w": SQUARE["w"]}, ROW)
    assert jnp.isfinite(product.cotangents[0]).all()
    assert guard.is_marked(product.cotangents[0]).all()
