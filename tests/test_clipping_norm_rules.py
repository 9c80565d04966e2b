"""Every rule against `vmap(grad)`, on losses of a single equation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dpjax.clipping import contributions, forms, tape
from dpjax.clipping.forms import measuring
from dpjax.clipping.norm_rules import RULES, Meeting

BATCH = 3
WEIGHTS = np.array([0.5, 0.0, -2.0])

# These programs run once: compiling them is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}


class Case(NamedTuple):
    """One equation: `apply(weight, data)` for one example.

    Attributes:
      apply: the equation, with as much around it as it needs.
      weight: shape of the weight.
      data: shape of an example's data, or a batch of integers.
      form: what the rule must return.
    """

    apply: Callable[[Any, Any], jax.Array]
    weight: tuple[int, ...]
    data: Any
    form: type | None


class Outcome(NamedTuple):
    """What a form says of the gradients."""

    norm: Any
    bound: Any
    weighted_sum: Any


def build(case):
    """Return `(weight, (data, coefficients))`: the cotangents are the coefficients."""
    random = np.random.default_rng(6)

    def drawn(shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    weight = drawn(case.weight)
    if isinstance(case.data, tuple):
        data = drawn((BATCH, *case.data))
    else:
        data = jnp.asarray(case.data, jnp.int32)
    out = jax.eval_shape(case.apply, weight, data[0])
    return weight, (data, drawn((BATCH, *out.shape)))


def loss_of(case, weight, example):
    data, coefficients = example
    return jnp.vdot(case.apply(weight, data), coefficients)


@pytest.fixture
def spied(monkeypatch):
    """Return the list that receives what the rules return, in their order."""
    returned = []

    def spy(rule, meeting):
        returned.append(rule(meeting))
        return returned[-1]

    for name, rule in RULES.items():
        monkeypatch.setitem(RULES, name, functools.partial(spy, rule))
    return returned


def gradient_of(case, weight, batch):
    """Return the gradient that the engine assembles for the weight."""
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    found = tape.record(lambda w, ex: (loss_of(case, w, ex), ()), weight, one)
    entries = found.entries([weight])
    example = jax.tree.leaves(batch)
    _, seen = jax.vmap(found.run, in_axes=(None, 0))(entries, example)
    (gradient,) = contributions.assemble(found, [weight], entries, seen, BATCH)
    return gradient


def oracle(case, weight, batch):
    grad = jax.grad(functools.partial(loss_of, case))
    return jax.vmap(grad, in_axes=(None, 0))(weight, batch)


def in_float64(tree):
    def widened(x):
        return x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(widened, tree)


def compiled(fn, *args):
    return jax.jit(fn, compiler_options=UNOPTIMISED)(*args)


def norms_of(grads):
    return np.linalg.norm(np.reshape(grads, (len(grads), -1)), axis=1)


def check_applied(spied, case):
    """Check a form in float64, and the same numbers in float32 against that."""

    def run(weight, batch):
        spied.clear()
        gradient_of(case, weight, batch)
        (form,) = spied
        total = form.weighted_sum(jnp.asarray(WEIGHTS, weight.dtype))
        value, (bound,) = measuring.added_up([form.squares()])
        return Outcome(jnp.sqrt(value), jnp.sqrt(bound), total), form

    def both(narrow, wide):
        wide_outcome, form = run(*wide)
        written = form.formed().formed().value
        return oracle(case, *wide), written, wide_outcome, run(*narrow)[0]

    with jax.enable_x64(True):
        args = build(case)
        grads, written, *outcomes = compiled(both, args, in_float64(args))
    assert type(spied[0]) is case.form
    norms = norms_of(grads)
    total = np.tensordot(WEIGHTS, grads, 1)
    close = np.testing.assert_allclose
    close(written, grads, rtol=0, atol=1e-10)
    for got, limit in zip(outcomes, (1e-10, 2e-6), strict=True):
        close(got.weighted_sum, total, rtol=0, atol=limit * norms.max())
        close(got.norm, norms, rtol=limit)
        close(got.bound, norms, rtol=50 * limit, atol=1e-15)
        assert np.all(np.asarray(got.bound, float) >= norms * (1 - 1e-14))


def check_not_applied(spied, case):
    """Check that the rule declines, and that the gradient is right all the same."""

    def both(*args):
        return gradient_of(case, *args).formed(), oracle(case, *args)

    with jax.enable_x64(True):
        got, want = compiled(both, *in_float64(build(case)))
    assert spied == [None]
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_every_rule_is_tested_here():
    tested = {*ELEMENTWISE, "dot_general", "gather", "conv_general_dilated"}
    assert {*RULES} == {*tested, "add_any", "identity"}


# Elementwise.


def over_steps(apply):
    """Use one weight at each step of a scan."""

    def steps(w, x):
        return lax.scan(lambda carry, x_t: (carry, apply(w, x_t)), (), x)[1]

    return steps


def over_layers(apply):
    """Use a slice of the weight at each step of a scan."""

    def steps(w, x):
        return lax.scan(lambda carry, each: (carry, apply(*each)), (), (w, x))[1]

    return steps


ELEMENTWISE = {"add": lax.add, "sub": lax.sub, "mul": lax.mul}
SHARED_IN_STEPPED = (
    lambda apply: over_layers(over_steps(apply)),
    (3, 2),
    (3, 5, 2),
)
STEPPED_IN_SHARED = (
    lambda apply: over_steps(over_layers(apply)),
    (5, 2),
    (3, 5, 2),
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_addition_subtraction_and_multiplication(spied, name, side):
    operation = ELEMENTWISE[name]

    def apply(w, x):
        return operation(w, x) if side == "left" else operation(x, w)

    check_applied(spied, Case(apply, (4, 2), (4, 2), forms.Formed))


@pytest.mark.parametrize("around", [SHARED_IN_STEPPED, STEPPED_IN_SHARED])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_addition_subtraction_and_multiplication_in_scans(spied, name, around):
    wrap, weight, data = around
    case = Case(wrap(ELEMENTWISE[name]), weight, data, forms.Formed)
    check_applied(spied, case)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_addition_subtraction_and_multiplication_of_scalars(spied, name):
    check_applied(spied, Case(ELEMENTWISE[name], (), (), forms.Formed))


def test_an_initial_carry_is_an_addition_to_nothing(spied):
    def apply(w, x):
        return lax.scan(lambda h, x_t: (0.5 * h + x_t, None), w, x)[0]

    check_applied(spied, Case(apply, (4,), (3, 4), forms.Formed))


def meeting_of(shape, weight, *, other=True, **settings):
    """Return a meeting in which the result's shape is not the weight's."""
    value = jnp.ones((BATCH, 1, 1, *shape))
    inputs = [None, value if other else None]
    return Meeting({}, 0, weight, inputs, [value], (), **settings)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_elementwise_rules_do_not_apply_where_shapes_differ(name):
    assert RULES[name](meeting_of((4, 2), ())) is None


@pytest.mark.parametrize("name", ["mul", "dot_general"])
def test_products_do_not_apply_without_the_other_operand(name):
    assert RULES[name](meeting_of((4,), (4,), other=False)) is None


# Products.


def product(contracting, batch=((), ())):
    """Return a `dot_general` with the weight on the left."""

    def apply(w, x):
        return lax.dot_general(w, x, (contracting, batch))

    return apply


def flipped(contracting, batch=((), ())):
    """Return a `dot_general` with the weight on the right."""

    def apply(w, x):
        return lax.dot_general(x, w, (contracting, batch))

    return apply


RIGHT = flipped(((1,), (0,)))
ONE = flipped(((0,), (0,)))
LEFT = product(((1,), (0,)))

PRODUCTS = {
    "weight_on_the_right": (RIGHT, (3, 5), (4, 3)),
    "weight_on_the_left": (LEFT, (5, 3), (3, 4)),
    "one_position_right": (ONE, (3, 5), (3,)),
    "one_position_left": (LEFT, (5, 3), (3,)),
    "no_free_axis_of_the_weight": (RIGHT, (3,), (4, 3)),
    "no_free_axis_at_all": (ONE, (3,), (3,)),
    "nothing_contracted_right": (flipped(((), ())), (3, 2), (4,)),
    "nothing_contracted_left": (product(((), ())), (3,), (4, 2)),
    "batch_axis_right": (
        flipped(((2,), (1,)), ((0,), (0,))),
        (2, 3, 5),
        (2, 4, 3),
    ),
    "batch_axis_left": (
        product(((1,), (1,)), ((2,), (0,))),
        (5, 3, 2),
        (2, 3, 4),
    ),
    "batch_axes_in_another_order": (
        flipped(((1,), (0,)), ((0, 3), (3, 1))),
        (3, 6, 5, 2),
        (2, 3, 4, 6),
    ),
    "batch_axis_alone": (
        product(((), ()), ((0,), (0,))),
        (4,),
        (4,),
    ),
    "several_contracted_axes": (
        flipped(((2, 1), (0, 1))),
        (3, 2, 5),
        (4, 2, 3),
    ),
    "several_free_axes_right": (
        flipped(((1,), (1,))),
        (5, 3, 2),
        (4, 3, 6),
    ),
    "several_free_axes_left": (
        product(((1,), (1,))),
        (5, 3, 2),
        (4, 3, 6),
    ),
    "more_positions_than_elements": (RIGHT, (2, 2), (40, 2)),
    "shared": (over_steps(RIGHT), (3, 5), (6, 4, 3)),
    "stepped": (over_layers(RIGHT), (6, 3, 5), (6, 4, 3)),
    "shared_in_stepped": (
        over_layers(over_steps(ONE)),
        (2, 3, 5),
        (2, 4, 3),
    ),
    "stepped_in_shared": (
        over_steps(over_layers(ONE)),
        (2, 3, 5),
        (4, 2, 3),
    ),
    "stepped_twice": (
        over_layers(over_layers(ONE)),
        (2, 4, 3, 5),
        (2, 4, 3),
    ),
    "stepped_with_batch_axis": (
        over_layers(flipped(((2,), (1,)), ((0,), (0,)))),
        (6, 2, 3, 5),
        (6, 2, 4, 3),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_dot_general(spied, name):
    case = Case(*PRODUCTS[name], forms.Outer)
    check_applied(spied, case)


# Look-ups.

IDS = np.array([[0, 3, 3, 1], [4, 0, 2, 2], [1, 1, 1, 1]])
NEGATIVE = np.array([[-1, 3, 4, 0], [-5, -1, 0, 2], [-2, 1, -4, 1]])
OUTSIDE = np.array([[0, 7, 4, 9], [-8, -1, 2, 2], [5, 5, 5, -5]])


def take(axis=0, mode=None):
    return lambda w, ids: jnp.take(w, ids, axis=axis, mode=mode)


def raw_gather(mode):
    """Return rows by indices as they are: negative ones are outside."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lambda w, ids: lax.gather(w, ids[:, None], numbers, (1, 2), mode=mode)


LOOK_UPS = {
    "rows": (take(), (5, 2), IDS),
    "grid_of_ids": (take(), (5, 2), IDS.reshape(BATCH, 2, 2)),
    "rows_of_several_axes": (take(), (5, 2, 3), IDS),
    "last_axis": (take(axis=1), (2, 5), IDS),
    "middle_axis": (take(axis=1), (2, 5, 3), IDS),
    "wrapped": (take(mode="wrap"), (5, 2), OUTSIDE),
    "promised": (lambda w, i: w.at[i].get(mode="promise_in_bounds"), (5, 2), IDS),
    "negative": (lambda w, ids: w[ids], (5, 2), NEGATIVE),
    "raw_clipped": (raw_gather("clip"), (5, 2), OUTSIDE),
    "raw_filled": (raw_gather("fill"), (5, 2), OUTSIDE),
    "raw_promised": (raw_gather("promise_in_bounds"), (5, 2), IDS),
    "small_table": (take(), (2, 3), IDS % 2),
    "shared_several": (over_steps(take()), (5, 2), IDS.reshape(BATCH, 2, 2)),
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_gather(spied, name):
    check_applied(spied, Case(*LOOK_UPS[name], forms.Rows))


NO_LOOK_UPS = {
    "windows": lambda w, ids: jax.vmap(
        lambda i: lax.dynamic_slice(w, (i, 0 * i), (2, 2))
    )(ids),
    "entries": lambda w, ids: w[ids, ids % 2],
    "parts_of_rows": lambda w, ids: jax.vmap(
        lambda i: lax.dynamic_slice(w, (i, 0 * i), (1, 1))
    )(ids),
    "batched": lambda w, ids: jnp.take_along_axis(w, ids[:, None] % 2, axis=1),
}


@pytest.mark.parametrize("name", NO_LOOK_UPS)
def test_a_gather_of_anything_but_whole_rows_falls_back(spied, name):
    ids = np.concatenate([IDS, IDS[:, :1]], axis=1) % 4
    check_not_applied(spied, Case(NO_LOOK_UPS[name], (5, 2), ids, None))


def test_a_gather_from_a_table_of_each_step_falls_back(spied):
    case = Case(over_layers(take()), (4, 5, 2), IDS, None)
    check_not_applied(spied, case)


# Convolutions.


def convolve(layout="NHWC", kernel="HWIO", strides=(1, 1), padding="VALID", **options):
    def apply(w, x):
        return lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            dimension_numbers=(layout, kernel, layout),
            **options,
        )

    return apply


IMAGE, KERNEL = (2, 7, 6, 4), (3, 2, 4, 5)
CONVOLUTIONS = {
    "plain": (convolve(), KERNEL, IMAGE),
    "same": (convolve(padding="SAME"), KERNEL, IMAGE),
    "stride": (convolve(strides=(2, 3)), KERNEL, IMAGE),
    "stride_and_padding": (
        convolve(strides=(2, 2), padding=((1, 2), (0, 3))),
        KERNEL,
        IMAGE,
    ),
    "negative_padding": (convolve(padding=((-1, 0), (2, -2))), KERNEL, IMAGE),
    "input_dilation": (
        convolve(lhs_dilation=(2, 3), padding=((1, 1), (0, 2))),
        KERNEL,
        IMAGE,
    ),
    "input_dilation_and_negative_padding": (
        convolve(lhs_dilation=(2, 2), padding=((-1, -2), (-2, 1))),
        KERNEL,
        IMAGE,
    ),
    "kernel_dilation": (convolve(rhs_dilation=(2, 3)), KERNEL, IMAGE),
    "everything": (
        convolve(
            strides=(2, 3),
            padding=((2, 1), (-1, 4)),
            lhs_dilation=(2, 1),
            rhs_dilation=(3, 2),
        ),
        KERNEL,
        IMAGE,
    ),
    "channels_first": (convolve("NCHW", "OIHW"), (5, 4, 3, 2), (2, 4, 7, 6)),
    "mixed_layout": (convolve("HWNC", "IHOW"), (4, 3, 5, 2), (7, 6, 2, 4)),
    "kernel_as_large_as_the_image": (convolve(), (7, 6, 4, 5), IMAGE),
    "one_by_one": (convolve(), (1, 1, 4, 5), IMAGE),
    "one_dimension": (
        convolve("NWC", "WIO", (2,)),
        (3, 4, 5),
        (2, 9, 4),
    ),
    "three_dimensions": (
        convolve("NDHWC", "DHWIO", (1, 2, 1)),
        (2, 2, 2, 3, 4),
        (1, 4, 5, 3, 3),
    ),
    "shared": (over_steps(convolve()), KERNEL, (3, *IMAGE)),
}
GROUPED = {
    "groups": (convolve(feature_group_count=2), (3, 2, 2, 6), IMAGE),
    "depthwise": (convolve(feature_group_count=4), (3, 2, 1, 4), IMAGE),
    "depthwise_with_multiplier": (
        convolve(feature_group_count=4, strides=(2, 1)),
        (3, 2, 1, 12),
        IMAGE,
    ),
    "groups_channels_first": (
        convolve("NCHW", "OIHW", feature_group_count=2, padding="SAME"),
        (6, 2, 3, 2),
        (2, 4, 7, 6),
    ),
    "groups_everything": (
        convolve(
            "NCHW",
            "HOWI",
            (2, 1),
            ((1, -1), (2, 0)),
            feature_group_count=2,
            lhs_dilation=(1, 2),
            rhs_dilation=(2, 1),
        ),
        (3, 6, 2, 2),
        (2, 4, 7, 6),
    ),
    "groups_shared": (
        over_steps(convolve(feature_group_count=2)),
        (3, 2, 2, 6),
        (3, *IMAGE),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(spied, name):
    case = Case(*CONVOLUTIONS[name], forms.Convolution)
    check_applied(spied, case)


@pytest.mark.parametrize("name", GROUPED)
def test_convolution_in_groups(spied, name):
    case = Case(*GROUPED[name], forms.Outer)
    check_applied(spied, case)


NO_CONVOLUTIONS = {
    "weight_as_image": (lambda w, x: convolve()(x, w), IMAGE, KERNEL),
    "batch_groups": (convolve(batch_group_count=2), (3, 2, 4, 6), IMAGE),
    "stepped": (over_layers(convolve()), (3, *KERNEL), (3, *IMAGE)),
}


@pytest.mark.parametrize("name", NO_CONVOLUTIONS)
def test_other_convolutions_fall_back(spied, name):
    case = Case(*NO_CONVOLUTIONS[name], None)
    check_not_applied(spied, case)
