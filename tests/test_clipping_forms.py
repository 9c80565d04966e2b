"""Forms: norms, bounds and sums of gradients that are not written out."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.clipping import forms
from dpjax.clipping.forms import Layout, extremes, measuring
from dpjax.clipping.tape import guard

BATCH = 5
MAX = float(np.finfo(np.float32).max)

# These programs run a few times: compiling them is what costs.
UNOPTIMISED = {"xla_backend_optimization_level": 0}

MATRIX = Layout((4, 3), (), (0,), (1,), (4, 3))
TABLE = Layout((6, 3), (), (0,), (1,), (6, 3))
WINDOW = forms.Window(kernel=(2, 3), strides=(2, 1), dilation=(1, 2), output=(3, 4))
KERNEL = Layout((2, 3, 2, 3), (), (0, 1, 2), (3,), (2, 3, 2, 3))


def draw(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def outer(batch=BATCH, positions=7, layout=MATRIX, seed=0):
    rows, columns = layout.size(layout.rows), layout.size(layout.columns)
    groups = layout.size(layout.groups) * int(np.prod(layout.stack, dtype=int))
    lead = (batch, groups, positions)
    return forms.Outer(*draw((*lead, rows), (*lead, columns), seed=seed), layout)


def rows(batch=BATCH, positions=7, seed=0):
    index = np.random.default_rng(seed).integers(0, 6, (batch, positions))
    (values,) = draw((batch, positions, 3), seed=seed)
    return forms.Rows(index, values, TABLE)


def large_table(batch=BATCH, shared=(), positions=7, seed=0):
    """Return look-ups in a table of many rows; of `shared` each two are of one row."""
    layout = Layout((2000, 3), (), (0,), (1,), (2000, 3))
    index = np.random.default_rng(seed).permutation(2000)[: batch * positions]
    index = index.reshape(batch, positions)
    for i, (example, position) in enumerate(shared):
        index[example % batch, position] = 1990 + i // 2
    (values,) = draw((batch, positions, 3), seed=seed)
    return forms.Rows(index, values, layout)


def table(batch=BATCH, seed=0):
    return forms.Table(rows(batch, seed=seed), outer(batch, 4, TABLE, seed + 1))


def convolution(batch=BATCH, seed=0):
    padded, right = draw((batch, 2, 6, 8, 2), (batch, 2, 3, 4, 3), seed=seed)
    return forms.Convolution(padded, right, WINDOW, KERNEL)


def recurrent(batch=BATCH, seed=0):
    return forms.Recurrent.make(outer(batch, seed=seed))


def part(batch=BATCH, make=outer, seed=0):
    return forms.Part.make(make(batch, seed=seed), 1, 0, 2)


def written(batch=BATCH, seed=0):
    return forms.Formed(*draw((batch, 4, 3), seed=seed))


FORMS = {
    "one_position": functools.partial(outer, positions=1),
    "positions": outer,
    "groups": functools.partial(
        outer, layout=Layout((2, 4, 3), (0,), (1,), (2,), (2, 4, 3))
    ),
    "groups_of_one_position": functools.partial(
        outer, positions=1, layout=Layout((2, 4, 3), (0,), (1,), (2,), (2, 4, 3))
    ),
    "stack": functools.partial(
        outer, layout=Layout((4, 3), (), (0,), (1,), (4, 3), (2, 2))
    ),
    "rows": rows,
    "rows_apart": large_table,
    "rows_seldom_met": functools.partial(large_table, shared=((3, 1), (3, 5))),
    "rows_met_often": functools.partial(
        large_table, shared=((3, 1), (3, 5), (0, 0), (0, 2), (1, 4), (1, 6))
    ),
    "table": table,
    "recurrent": recurrent,
    "part": part,
    "part_of_recurrent": functools.partial(part, make=recurrent),
    "convolution": convolution,
    "formed": written,
}


def arrays_of(form):
    """Return the arrays of a form, and how to make the form of others."""
    if isinstance(form, forms.Outer):
        return (form.left, form.right), lambda a, b: forms.Outer(a, b, form.layout)
    if isinstance(form, forms.Recurrent):
        arrays, make_outer = arrays_of(form.as_outer())
        return arrays, lambda *sides: forms.Recurrent.make(make_outer(*sides))
    if isinstance(form, forms.Part):
        arrays, make_whole = arrays_of(form.whole)
        return arrays, lambda *sides: forms.Part.make(
            make_whole(*sides), form.axis, form.start, form.size
        )
    if isinstance(form, forms.Rows):
        return (form.index, form.values), lambda i, v: forms.Rows(i, v, form.layout)
    if isinstance(form, forms.Convolution):
        make = functools.partial(
            forms.Convolution, window=form.window, layout=form.layout
        )
        return (form.padded, form.right), make
    if isinstance(form, forms.Formed):
        return (form.value,), forms.Formed
    (first, make_first), (last, make_last) = map(
        arrays_of, (form.looked_up, form.outer)
    )
    return (*first, *last), lambda i, v, a, b: forms.Table(
        make_first(i, v), make_last(a, b)
    )


def of_dtype(form, dtype):
    """Return a form with its numbers in another dtype; integers stay."""
    arrays, make = arrays_of(form)
    cast = [x if x.dtype.kind == "i" else np.asarray(x, dtype) for x in arrays]
    return make(*map(jnp.asarray, cast))


def by_hand(form):
    """Write the gradients out in NumPy, in float64: `(batch, *weight)`."""
    if isinstance(form, forms.Formed):
        return np.asarray(form.value, float)
    if isinstance(form, forms.Table):
        return by_hand(form.looked_up) + by_hand(form.outer)
    if isinstance(form, forms.Rows):
        values = np.asarray(form.values, float)
        total = np.zeros((len(values), *form.layout.weight))
        for example, index in enumerate(np.asarray(form.index)):
            np.add.at(total[example], index, values[example])
        return total
    if isinstance(form, forms.Convolution):
        return kernel_by_hand(form)
    if isinstance(form, forms.Recurrent):
        return by_hand(form.as_outer())
    if isinstance(form, forms.Part):
        where = range(form.start, form.start + form.size)
        return np.take(by_hand(form.whole), where, 1 + form.axis)
    left, right = (np.asarray(x, float) for x in (form.left, form.right))
    return matrices_by_hand(form.layout, np.einsum("bgtm,bgtn->bgmn", left, right))


def kernel_by_hand(form):
    x, right = (np.asarray(a, float) for a in (form.padded, form.right))
    total = np.zeros((len(x), *WINDOW.kernel, x.shape[-1], right.shape[-1]))
    for h, w in np.ndindex(*WINDOW.kernel):
        for i, j in np.ndindex(*WINDOW.output):
            pixel = x[:, :, 2 * i + h, j + 2 * w]
            part = np.einsum("bni,bno->bio", pixel, right[:, :, i, j])
            total[:, h, w] += part
    return total


def matrices_by_hand(layout, matrices):
    """Put every element of `(batch, groups, rows, columns)` where it belongs."""
    axes = (*layout.groups, *layout.rows, *layout.columns)
    split = matrices.reshape(-1, *(layout.shape[axis] for axis in axes))
    found = np.moveaxis(split, range(1, 1 + len(axes)), [1 + axis for axis in axes])
    return found.reshape(len(matrices), *layout.stack, *layout.weight)


def norms_of(grads):
    return np.linalg.norm(np.asarray(grads, float).reshape(len(grads), -1), axis=1)


WEIGHTS = np.array([1.0, 0.0, -2.0, 0.5, 3.0])


class Norm(NamedTuple):
    """Norms as they come out, and what they are at most."""

    value: Any
    bound: Any


def norm_of(form):
    value, (bound,) = measuring.added_up([form.squares()])
    return Norm(jnp.sqrt(value), jnp.sqrt(bound))


def longest_of(form):
    return extremes.bounds([form.terms()], norm_of(form).value[None])[0]


@functools.cache
def compiled(name):
    """Return a compiled function from a form's arrays to its norm and `longest`."""
    _, make = arrays_of(FORMS[name]())

    def run(*arrays):
        form = make(*arrays)
        return norm_of(form), longest_of(form)

    return jax.jit(run, compiler_options=UNOPTIMISED)


def measured(name, form):
    """Return `((value, bound), longest)`."""
    return compiled(name)(*arrays_of(form)[0])


class Outcome(NamedTuple):
    """All that a form says, and the same once it is written out."""

    norm: Any
    longest: Any
    weighted_sum: Any
    written: Any
    written_norm: Any
    written_longest: Any
    written_sum: Any


def outcome(form, weights):
    written = form.formed()
    return Outcome(
        norm_of(form),
        longest_of(form),
        form.weighted_sum(weights),
        written.formed().value,
        norm_of(written),
        longest_of(written),
        written.weighted_sum(weights),
    )


@functools.cache
def evaluating(name):
    _, make = arrays_of(FORMS[name]())

    def run(weights, *arrays):
        return outcome(make(*arrays), weights)

    return jax.jit(run, compiler_options=UNOPTIMISED)


def evaluated(name, form):
    arrays, _ = arrays_of(form)
    dtype = jnp.promote_types(arrays[-1].dtype, jnp.float32)
    return evaluating(name)(jnp.asarray(WEIGHTS, dtype), *arrays)


# Layouts.

LAYOUTS = {
    "matrix": MATRIX,
    "turned": Layout((4, 3), (), (1,), (0,), (4, 3)),
    "several_axes": Layout((2, 3, 4, 5), (), (2, 0), (3, 1), (2, 3, 4, 5)),
    "groups": Layout((2, 3, 4, 5), (3, 0), (2,), (1,), (2, 3, 4, 5)),
    "no_columns": Layout((4,), (), (0,), (), (4,)),
    "no_rows": Layout((4,), (), (), (0,), (4,)),
    "split_axis": Layout((3, 2, 4), (1,), (0,), (2,), (3, 8)),
    "stack": Layout((4, 3), (), (1,), (0,), (4, 3), (2, 5)),
    "stack_of_groups": Layout((2, 4, 3), (1,), (2,), (0,), (2, 4, 3), (2,)),
}


def matrices_for(layout, batch=2):
    groups = layout.size(layout.groups) * int(np.prod(layout.stack, dtype=int))
    shape = (groups, layout.size(layout.rows), layout.size(layout.columns))
    count = batch * int(np.prod(shape))
    return np.arange(count, dtype=float).reshape(batch, *shape)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_matrices_become_the_weight_element_by_element(layout):
    if layout.stack:
        matrices = matrices_for(layout)
        stack = int(np.prod(layout.stack))
        one = Layout(
            layout.shape, layout.groups, layout.rows, layout.columns, layout.weight
        )
        split = matrices.reshape(len(matrices) * stack, -1, *matrices.shape[2:])
        expected = matrices_by_hand(one, split)
        expected = expected.reshape(len(matrices), *layout.stack, *layout.weight)
    else:
        matrices = matrices_for(layout)
        expected = matrices_by_hand(layout, matrices)
    np.testing.assert_array_equal(layout.to_weight(jnp.asarray(matrices)), expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_swapped_matrices_become_the_same_weight(layout):
    matrices = jnp.asarray(matrices_for(layout))
    swapped = layout.swapped()
    turned = swapped.to_weight(jnp.swapaxes(matrices, -1, -2))
    np.testing.assert_array_equal(turned, layout.to_weight(matrices))
    assert swapped.swapped() == layout


@pytest.mark.parametrize("permutation", [(0, 1, 2, 3), (3, 1, 0, 2), (1, 2, 3, 0)])
@pytest.mark.parametrize("name", ["several_axes", "groups"])
def test_a_transposed_layout_is_that_of_the_weight_before_the_transpose(
    name, permutation
):
    layout = LAYOUTS[name]
    matrices = jnp.asarray(matrices_for(layout))
    before = layout.transposed(permutation).to_weight(matrices)
    after = jnp.transpose(before, (0, *(1 + axis for axis in permutation)))
    np.testing.assert_array_equal(after, layout.to_weight(matrices))


@pytest.mark.parametrize("name", ["split_axis", "stack"])
def test_what_is_split_or_stacked_has_no_transposed_layout(name):
    permutation = tuple(range(len(LAYOUTS[name].weight)))
    assert LAYOUTS[name].transposed(permutation) is None


def test_a_window_of_a_layout_is_the_layout_of_a_smaller_weight():
    assert MATRIX.window(0, 2) == Layout((2, 3), (), (0,), (1,), (2, 3))


# Norms, sums, and what is written out.


@pytest.mark.parametrize("name", FORMS)
def test_norms_sums_and_what_is_written_out_are_those_of_the_formula(name):
    with jax.enable_x64(True):
        form = of_dtype(FORMS[name](), float)
        got = evaluated(name, form)
    grads = by_hand(form)
    total, norms = np.tensordot(WEIGHTS, grads, 1), norms_of(grads)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(got.written, grads)
    for found in (got.weighted_sum, got.written_sum):
        close(found, total)
    for norm in (*got.norm, *got.written_norm):
        close(norm, norms)
    for longest in (got.longest, got.written_longest):
        assert np.all(longest >= norms * (1 - 1e-14))


def test_nothing_is_zero():
    nothing = forms.Nothing(BATCH, jax.ShapeDtypeStruct((4, 3), jnp.bfloat16))
    np.testing.assert_array_equal(norm_of(nothing), np.zeros((2, BATCH)))
    np.testing.assert_array_equal(longest_of(nothing), np.zeros(BATCH))
    for value in (nothing.weighted_sum(jnp.ones(BATCH)), nothing.formed().value):
        assert value.dtype == jnp.float32
        assert not value.any()
    assert nothing.weighted_sum(jnp.ones(BATCH)).shape == (4, 3)
    assert nothing.formed().value.shape == (BATCH, 4, 3)


@pytest.mark.parametrize("name", FORMS)
def test_half_precision_is_measured_and_summed_in_float32(name):
    form = of_dtype(FORMS[name](), jnp.bfloat16)
    got = evaluated(name, form)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(got.norm.value, norms_of(by_hand(form)), rtol=1e-6)


# Bounds.


def in_pairs(form, excess):
    """Return a form whose positions nearly cancel: each is followed by its negative."""
    arrays, make = arrays_of(form)
    if isinstance(form, forms.Table):
        looked_up, product = form.looked_up, form.outer
        signs = np.full((1, 1, 4, 1), -(1 + excess))
        left = np.eye(6)[np.asarray(looked_up.index)[:, :4]][:, None] * signs
        same = forms.Outer(left, np.asarray(looked_up.values)[:, None, :4], TABLE)
        kept = (looked_up.index[:, :4], looked_up.values[:, :4])
        assert product.layout == TABLE
        return forms.Table(forms.Rows(*kept, TABLE), same)
    if isinstance(form, forms.Convolution):
        left, right = (np.array(x) for x in arrays)
        left[:, 1], right[:, 1] = left[:, 0], -(1 + excess) * right[:, 0]
        return make(left, right)
    axis = -2
    signs = np.where(np.arange(arrays[-1].shape[axis]) % 2, -(1 + excess), 1.0)
    half = (np.arange(len(signs)) // 2) * 2
    if isinstance(form, forms.Rows):
        index, values = arrays
        return make(index[:, half], values[:, half] * signs[:, None])
    left, right = (np.take(x, half, axis) for x in arrays)
    return make(left, right * signs[:, None])


EXCESSES = (0.0, 2.0**-22, 2.0**-18, 2.0**-12, 2.0**-6, 0.5)
SUMS = ["positions", "groups", "stack", "rows", "table", "convolution"]


@pytest.mark.parametrize("excess", EXCESSES)
@pytest.mark.parametrize("name", SUMS)
def test_the_bound_holds_where_positions_nearly_cancel(name, excess):
    for batch in (1, 3, 200):
        form = of_dtype(in_pairs(FORMS[name](batch), excess), np.float32)
        (_, bound), _ = measured(name, form)
        norms = norms_of(by_hand(form))
        assert np.all(np.asarray(bound, float) >= norms)


@pytest.mark.parametrize("name", FORMS)
def test_the_bound_holds_and_is_tight_for_ordinary_draws(name):
    for batch, draws in ((1, 60), (3, 40), (200, 2)):
        for seed in range(draws):
            form = of_dtype(FORMS[name](batch, seed=seed), np.float32)
            (value, bound), _ = measured(name, form)
            norms = norms_of(by_hand(form))
            np.testing.assert_allclose(value, norms, rtol=1e-5)
            assert np.all(np.asarray(bound, float) >= norms)
            np.testing.assert_allclose(bound, norms, rtol=1e-5)


LONG = Layout((3, 10), (), (0,), (1,), (3, 10))


@pytest.mark.parametrize("positions", [24, 100])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_bound_holds_for_many_positions_in_few_dimensions(batch, positions):
    run = jax.jit(lambda left, right: norm_of(forms.Outer(left, right, LONG)))
    for seed in range(50):
        form = of_dtype(outer(batch, positions, LONG, seed), np.float32)
        bound = np.asarray(run(form.left, form.right).bound, float)
        assert np.all(bound >= norms_of(by_hand(form)))


@settings(max_examples=40)
@given(st.floats(-70, 60), st.integers(0, 1000))
def test_the_bound_holds_at_every_scale_that_squares_reach(exponent, seed):
    form = of_dtype(outer(8, seed=seed), np.float32)
    scaled = forms.Outer(form.left * np.float32(2.0**exponent), form.right, MATRIX)
    (_, bound), longest = measured("positions", scaled)
    norms = norms_of(by_hand(scaled))
    held = np.where(np.isfinite(bound), bound, longest)
    assert np.all(np.asarray(held, float) >= norms * (1 - 1e-6))


# Where squares overflow or vanish.


def scaled(form, factor):
    """Multiply the gradients of example 1 by `factor`, on one side."""
    arrays, make = arrays_of(form)
    products = forms.Outer | forms.Recurrent | forms.Part | forms.Convolution
    sides = [0] if isinstance(form, products) else [-1]
    sides = [1, 2] if isinstance(form, forms.Table) else sides
    changed = [np.array(x) for x in arrays]
    for side in sides:
        changed[side][1] *= factor
    return make(*map(jnp.asarray, changed))


@pytest.mark.parametrize("name", FORMS)
def test_longest_is_at_least_the_norm_however_large_or_small(name):
    for factor in (1e30, 1e25, 1e15, 1.0, 1e-15, 1e-25):
        form = scaled(of_dtype(FORMS[name](), np.float32), np.float32(factor))
        _, longest = measured(name, form)
        norms = norms_of(by_hand(form))
        assert np.all(np.isfinite(longest))
        assert np.all(np.asarray(longest, float) >= norms * (1 - 1e-6))
        assert np.all(np.asarray(longest, float) <= norms * 40)


def marked(form):
    """Put a mark where a cotangent of example 1 was not finite."""
    arrays, make = arrays_of(form)
    changed = [np.array(x) for x in arrays]
    changed[-1][(1, *[0] * (changed[-1].ndim - 1))] = MAX
    return make(*map(jnp.asarray, changed))


def spoiled(form):
    """Return the form with NaN, with infinity, and with a mark in example 1."""
    return [*(scaled(form, np.float32(v)) for v in (np.nan, np.inf)), marked(form)]


@pytest.mark.parametrize("name", FORMS)
def test_longest_is_infinite_for_what_is_not_finite(name):
    for bad in spoiled(of_dtype(FORMS[name](), np.float32)):
        _, longest = measured(name, bad)
        np.testing.assert_array_equal(np.isfinite(longest), np.arange(BATCH) != 1)
        assert not np.any(np.isnan(longest))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_written_out_of_a_marked_example_is_not_finite(name):
    got = evaluated(name, marked(of_dtype(FORMS[name](), np.float32)))
    np.testing.assert_array_equal(
        np.isfinite(got.written_longest), np.arange(BATCH) != 1
    )
    if name != "formed":
        finite = np.isfinite(got.written).reshape(BATCH, -1).all(axis=1)
        np.testing.assert_array_equal(finite, np.arange(BATCH) != 1)


@pytest.mark.parametrize("name", FORMS)
def test_weight_zero_gives_exactly_zero_whatever_is_there(name):
    form = of_dtype(FORMS[name](), np.float32)
    clean = evaluated(name, form)
    for bad in spoiled(form):
        got = evaluated(name, bad)
        np.testing.assert_array_equal(got.weighted_sum, clean.weighted_sum)
        np.testing.assert_array_equal(got.written_sum, clean.written_sum)


@pytest.mark.parametrize("positions", [1, 7])
def test_the_norm_of_a_swapped_form_is_the_same(positions):
    form = of_dtype(outer(positions=positions), np.float32)
    np.testing.assert_allclose(norm_of(form.swapped()), norm_of(form), rtol=1e-6)
    np.testing.assert_array_equal(
        form.swapped().formed().formed().value, form.formed().formed().value
    )


def test_a_swapped_form_keeps_what_is_not_finite_on_its_raw_side():
    form = scaled(of_dtype(outer(), np.float32), np.float32(np.nan)).swapped()
    weights = jnp.asarray([1.0, 0.0, 0.5, 2.0, 1.0])
    assert np.isfinite(form.weighted_sum(weights)).all()


def test_a_large_gradient_is_summed_row_by_row_to_the_same():
    (value,) = draw((BATCH, 70, 90))
    value[3] = np.nan
    weights = np.array([1.0, 0.25, -2.0, 0.0, 3.0])
    total = jax.jit(forms.Formed(jnp.asarray(value)).weighted_sum)(jnp.asarray(weights))
    kept = weights != 0
    expected = np.tensordot(weights[kept], value[kept], 1)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)


# Sums of several uses.


def check_joined(parts, expected_type):
    """Check norm, bound and sum of joined forms against the sum of their gradients."""
    taken = [arrays_of(part) for part in parts]
    joined = []

    def run(arrays, weights):
        made = [make(*x) for x, (_, make) in zip(arrays, taken, strict=True)]
        joined.append(forms.joined(made))
        return outcome(joined[0], weights)

    with jax.enable_x64(True):
        program = jax.jit(run, compiler_options=UNOPTIMISED)
        got = program([arrays for arrays, _ in taken], WEIGHTS)
    assert type(joined[0]) is expected_type
    grads = sum(by_hand(part) for part in parts)
    norms = norms_of(grads)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(got.norm.value, norms)
    assert np.all(got.norm.bound >= norms * (1 - 1e-14))
    assert np.all(got.longest >= norms * (1 - 1e-14))
    close(got.written, grads)
    close(got.weighted_sum, np.tensordot(WEIGHTS, grads, 1))
    return joined[0]


def test_a_layer_called_twice_is_one_on_twice_as_many_positions():
    parts = [outer(positions=1), outer(positions=4, seed=1), outer(seed=2)]
    assert check_joined(parts, forms.Outer).left.shape[2] == 12


def test_a_weight_used_straight_and_transposed_is_joined():
    turned = outer(layout=MATRIX.swapped(), seed=1)
    check_joined([outer(), turned], forms.Outer)
    check_joined([turned, outer()], forms.Outer)


def test_a_table_looked_up_twice_is_one_table():
    check_joined([rows(), rows(positions=3, seed=1)], forms.Rows)


@pytest.mark.parametrize("turned", [False, True])
def test_a_table_that_is_also_multiplied_with_is_joined(turned):
    layout = TABLE.swapped() if turned else TABLE
    product = outer(positions=4, layout=layout, seed=1)
    check_joined([rows(), product], forms.Table)
    check_joined([product, rows(positions=3, seed=2), rows()], forms.Table)


def test_a_joined_form_of_bad_examples_gives_zero_at_weight_zero():
    first = of_dtype(outer(), np.float32)
    second = of_dtype(outer(layout=MATRIX.swapped(), seed=1), np.float32)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def run(arrays, others):
        parts = [
            forms.Outer(*pair, layout=part.layout)
            for pair, part in ((arrays, first), (others, second))
        ]
        form = forms.joined(parts)
        weights = jnp.asarray(WEIGHTS, jnp.float32)
        return longest_of(form), form.weighted_sum(weights)

    (same, _), (turned, _) = map(arrays_of, (first, second))
    _, clean = run(same, turned)
    spoils = [(arrays_of(bad)[0], turned) for bad in spoiled(first)]
    spoils += [(same, arrays_of(bad)[0]) for bad in spoiled(second)]
    for pair in spoils:
        longest, total = run(*pair)
        np.testing.assert_array_equal(total, clean)
        np.testing.assert_array_equal(np.isfinite(longest), np.arange(BATCH) != 1)


NOT_JOINED = {
    "other_forms": lambda: [outer(), written()],
    "a_convolution": lambda: [convolution(), convolution(seed=1)],
    "other_rows": lambda: [
        outer(layout=Layout((4, 3, 2), (), (0, 1), (2,), (4, 3, 2))),
        outer(layout=Layout((4, 3, 2), (), (0,), (1, 2), (4, 3, 2))),
    ],
    "other_tables": lambda: [
        rows(),
        forms.Rows(rows().index, rows().values, TABLE.swapped()),
    ],
    "a_table_and_groups": lambda: [
        rows(),
        outer(layout=Layout((6, 3), (1,), (0,), (), (6, 3))),
    ],
    "a_table_and_other_rows": lambda: [
        rows(),
        outer(layout=Layout((6, 3), (), (0, 1), (), (6, 3))),
    ],
}


@pytest.mark.parametrize("name", NOT_JOINED)
def test_what_has_no_short_sum_is_not_joined(name):
    assert (
        forms.joined([of_dtype(part, np.float32) for part in NOT_JOINED[name]()])
        is None
    )


# Parts.


@pytest.mark.parametrize(("axis", "start", "size"), [(0, 1, 2), (1, 2, 1), (0, 0, 4)])
@pytest.mark.parametrize("layout", [MATRIX, MATRIX.swapped()])
@pytest.mark.parametrize("kind", ["outer", "recurrent"])
def test_a_part_has_the_gradients_of_a_part_of_the_weight(
    kind, layout, axis, start, size
):
    form = outer(layout=layout)
    whole = forms.Recurrent.make(form) if kind == "recurrent" else form
    part = forms.Part.make(whole, axis, start, size)
    expected = np.take(by_hand(form), range(start, start + size), 1 + axis)
    np.testing.assert_allclose(by_hand(part.cut()), expected, rtol=1e-5, atol=1e-5)
    assert part.as_outer().layout.weight == expected.shape[1:]
    total = np.tensordot(WEIGHTS, by_hand(form), 1)
    np.testing.assert_allclose(
        part.cut_from(total), np.tensordot(WEIGHTS, expected, 1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["groups", "split"])
def test_a_part_that_is_not_that_simple_is_none(name):
    layouts = {
        "groups": Layout((2, 4, 3), (0,), (1,), (2,), (2, 4, 3)),
        "split": LAYOUTS["split_axis"],
    }
    assert forms.Part.make(outer(layout=layouts[name]), 0, 0, 1) is None
    assert forms.Part.make(written(), 0, 0, 1) is None


# The cheaper of two.

FEW, MANY = 2, 600


@pytest.mark.parametrize(
    ("form", "is_formed"),
    [
        (functools.partial(outer, positions=1), False),
        (functools.partial(outer, positions=FEW), False),
        (functools.partial(outer, positions=MANY), True),
        (functools.partial(rows, positions=FEW), False),
        (functools.partial(rows, positions=MANY), True),
        (table, False),
        (written, True),
    ],
)
def test_the_cheaper_of_two_forms_is_taken_and_both_agree(form, is_formed):
    arrays, make = arrays_of(form())
    taken = []

    def run(*arrays):
        form = make(*arrays)
        taken.append(forms.settled(form))
        return outcome(form, WEIGHTS), outcome(taken[0], WEIGHTS)

    with jax.enable_x64(True):
        got, settled = jax.jit(run, compiler_options=UNOPTIMISED)(*arrays)
    assert isinstance(taken[0], forms.Formed) == is_formed
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
    close(settled.norm.value, got.norm.value)
    close(settled.written_norm.value, got.norm.value)
    close(settled.weighted_sum, got.weighted_sum)


def test_a_small_kernel_on_a_large_image_is_written_out_and_a_late_layer_is_not():
    def layer(size, features):
        window = forms.Window((3, 3), (1, 1), (1, 1), (size, size))
        shape = (3, 3, features, features)
        layout = Layout(shape, (), (0, 1, 2), (3,), shape)
        padded = jnp.zeros((1, 1, size + 2, size + 2, features))
        right = jnp.zeros((1, 1, size, size, features))
        return forms.settled(forms.Convolution(padded, right, window, layout))

    assert isinstance(layer(28, 4), forms.Formed)
    assert isinstance(layer(2, 128), forms.Convolution)


def test_a_marked_value_is_known_again_after_it_was_written_out():
    marks = guard.finite(jnp.asarray([[1.0, jnp.nan], [2.0, 3.0]]))
    form = forms.Formed(marks, marked=True)
    assert np.isnan(form.formed().value[0]).any()
    np.testing.assert_array_equal(form.formed().value[1], [2.0, 3.0])
