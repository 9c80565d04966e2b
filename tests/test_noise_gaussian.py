import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats

from dpjax.noise import gaussian_noise, key_data

DATA = key_data(20)
SIZE = 20_000


def vector(size=SIZE, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((size,), dtype)


def flat(tree):
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def correlation_in_standard_errors(a, b):
    # Of independent samples: standard error 1 / sqrt(size).
    return abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(np.size(a))


def p_value(noise, stddev):
    return stats.kstest(flat(noise) / stddev, "norm").pvalue


@pytest.mark.parametrize("stddev", [1e-6, 0.3, 1.0, 40.0])
def test_noise_is_normal_with_the_stated_standard_deviation(stddev):
    noise = gaussian_noise(DATA, 0, vector(), stddev)
    assert p_value(noise, stddev) > 1e-3
    assert p_value(noise, stddev * 2 / 3) < 1e-6
    assert p_value(noise, stddev * 3 / 2) < 1e-6


def test_noise_variance_is_exact_within_five_standard_errors():
    # A million values: the standard error of the std is stddev / sqrt(2 * size).
    noise = flat(gaussian_noise(DATA, 1, vector(1_000_000), 3.0))
    assert abs(noise.std() / 3.0 - 1) < 5 / np.sqrt(2e6)
    assert abs(noise.mean() / 3.0) < 5 / np.sqrt(1e6)


def test_noise_has_the_tails_of_a_normal():
    noise = np.abs(flat(gaussian_noise(DATA, 2, vector(1_000_000), 1.0)))
    for bound in (3.0, 4.0):
        expected = 1e6 * 2 * stats.norm.sf(bound)
        assert abs((noise > bound).sum() - expected) < 5 * np.sqrt(expected)


def test_noise_is_a_pure_function_of_key_step_and_leaf_path():
    like = {"a": vector(5), "b": [vector(5), vector(5)]}
    chex.assert_trees_all_equal(
        gaussian_noise(DATA, 3, like, 1.0), gaussian_noise(DATA, 3, like, 1.0)
    )
    draws = [
        jax.tree.leaves(gaussian_noise(key_data(key), step, like, 1.0))
        for key in (20, 21, None, None)
        for step in (3, 4)
    ]
    values = np.stack([leaf for leaves in draws for leaf in leaves])
    assert len(np.unique(values)) == values.size == 4 * 2 * 3 * 5


def test_names_that_differ_only_in_punctuation_have_noise_of_their_own():
    like = {"a": {"b": vector(3)}, "a']['b": vector(3), "a.b": vector(3), 0: vector(3)}
    like = collections.OrderedDict(like)
    assert len(np.unique(flat(gaussian_noise(DATA, 0, like, 1.0)))) == 12


def test_values_of_a_leaf_do_not_depend_on_the_other_leaves():
    whole = gaussian_noise(DATA, 0, {"a": vector(5), "b": {"c": vector(7)}}, 1.0)
    alone = gaussian_noise(DATA, 0, {"b": {"c": vector(7), "d": None}}, 1.0)
    np.testing.assert_array_equal(whole["b"]["c"], alone["b"]["c"])


def test_leaves_are_independent():
    noise = gaussian_noise(DATA, 0, {"a": vector(), "b": [vector(), vector()]}, 1.0)
    a, (b, c) = noise["a"], noise["b"]
    for one, two in ((a, b), (a, c), (b, c), (a[1:], a[:-1]), (a[1:], b[:-1])):
        assert correlation_in_standard_errors(one, two) < 5


def test_steps_are_independent():
    draw = jax.jit(lambda step: gaussian_noise(DATA, step, vector(), 1.0))
    steps = [draw(step) for step in range(4)]
    for i in range(4):
        for j in range(i):
            assert correlation_in_standard_errors(steps[i], steps[j]) < 5


def test_one_value_over_many_steps_is_normal_too():
    draw = jax.vmap(lambda step: gaussian_noise(DATA, step, jnp.float32(0), 2.0))
    noise = draw(jnp.arange(SIZE))
    assert p_value(noise, 2.0) > 1e-3
    assert p_value(noise, 3.0) < 1e-6
    assert correlation_in_standard_errors(noise[1:], noise[:-1]) < 5


def test_one_value_over_many_keys_is_normal_too():
    def draw(data):
        return gaussian_noise(data, 0, jnp.float32(0), 1.0)

    noise = jax.vmap(draw)(jax.vmap(key_data)(jnp.arange(SIZE)))
    assert p_value(noise, 1.0) > 1e-3
    assert correlation_in_standard_errors(noise[1:], noise[:-1]) < 5


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (jnp.float8_e4m3fn, jnp.float32),
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.complex64, jnp.complex64),
    ],
)
def test_noise_has_at_least_32_bits(dtype, expected):
    assert gaussian_noise(DATA, 0, vector(3, dtype), 1.0).dtype == expected


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_wide_leaves_keep_their_width(dtype):
    with jax.enable_x64(True):
        noise = gaussian_noise(DATA, 0, vector(SIZE, dtype), 2.0)
        assert noise.dtype == dtype
        assert p_value(noise.real, 2.0) > 1e-3
        assert p_value(noise.real, 3.0) < 1e-6
        assert np.any(noise.real != noise.real.astype(jnp.float32))


def test_wide_mode_does_not_change_narrow_noise():
    narrow = gaussian_noise(DATA, 0, vector(1001), 1.7)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(
            narrow, gaussian_noise(DATA, 0, vector(1001), 1.7)
        )


def test_both_parts_of_complex_noise_have_the_stated_standard_deviation():
    noise = np.asarray(gaussian_noise(DATA, 0, vector(SIZE, jnp.complex64), 2.0))
    for part in (noise.real, noise.imag):
        assert p_value(part, 2.0) > 1e-3
        assert p_value(part, 2.0 * 2 / 3) < 1e-6
        assert p_value(part, 2.0 * 3 / 2) < 1e-6
    assert correlation_in_standard_errors(noise.real, noise.imag) < 5


def test_scalars_and_empty_leaves_keep_their_shapes():
    like = {"a": 1.0, "b": np.zeros(()), "c": jnp.zeros((0, 3)), "d": np.zeros((2, 1))}
    noise = gaussian_noise(DATA, 0, like, 1.0)
    shapes = jax.tree.map(np.shape, noise, is_leaf=lambda leaf: leaf is None)
    assert shapes == {"a": (), "b": (), "c": (0, 3), "d": (2, 1)}
    assert noise["a"] != noise["b"]


def test_noise_of_stddev_zero_is_zero():
    assert not np.any(gaussian_noise(DATA, 0, vector(), 0.0))


@pytest.mark.parametrize("transform", ["jit", "scan", "vmap", "traced stddev"])
def test_transformations_do_not_change_a_single_bit(transform):
    def draw(step, stddev=1.7):
        return gaussian_noise(DATA, step, {"a": vector(1001)}, stddev)

    ups = jnp.arange(6)
    drawn = {
        "jit": lambda: jax.jit(draw)(jnp.uint32(5)),
        "scan": lambda: last(jax.lax.scan(lambda _, t: (0, draw(t)), 0, ups)[1]),
        "vmap": lambda: last(jax.vmap(draw)(ups)),
        "traced stddev": lambda: jax.jit(draw)(5, 1.7),
    }
    chex.assert_trees_all_equal(drawn[transform](), draw(5))


def last(tree):
    return jax.tree.map(lambda leaf: leaf[-1], tree)


def test_a_step_is_traced_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(step, stddev):
        return gaussian_noise(DATA, step, vector(3), stddev)

    for step in range(5):
        draw(step, 1.0 + step)


@pytest.mark.parametrize("spec", [("x", None), (None, "x")])
def test_two_devices_give_the_numbers_of_one_and_share_no_noise(spec):
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    assert mesh.size == 2
    like = {"w": jax.ShapeDtypeStruct((64, 6), jnp.float32), "b": vector(1)}
    sharding = {
        "w": NamedSharding(mesh, PartitionSpec(*spec)),
        "b": NamedSharding(mesh, PartitionSpec()),
    }
    one = gaussian_noise(DATA, 2, like, 1.5)
    draw = jax.jit(
        lambda step: gaussian_noise(DATA, step, like, 1.5), out_shardings=sharding
    )
    two = draw(2)
    assert len(two["w"].sharding.device_set) == 2
    chex.assert_trees_all_equal(one, two)
    assert len(np.unique(two["w"])) == two["w"].size


def test_sharded_parameters_get_the_noise_of_unsharded_ones():
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    params = jnp.zeros((64, 6))
    sharded = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x")))
    add = jax.jit(lambda tree: tree + gaussian_noise(DATA, 2, tree, 1.5))
    np.testing.assert_array_equal(add(sharded), add(params))


class Alike:
    """A key of a dictionary that reads like every other of its kind."""

    def __repr__(self):
        return "alike"


class Pair:
    """A node both of whose children report the same path."""

    def __init__(self, *children):
        self.children = children


jax.tree_util.register_pytree_with_keys(
    Pair,
    lambda pair: ([(jax.tree_util.GetAttrKey("same"), c) for c in pair.children], None),
    lambda _, children: Pair(*children),
)


@pytest.mark.parametrize(
    "like",
    [
        Pair(vector(3), vector(3)),
        [Pair({"a": vector(3)}, {"a": vector(3)})],
        collections.OrderedDict({Alike(): vector(3), Alike(): vector(4)}),
    ],
    ids=["node", "nested", "dictionary"],
)
def test_two_leaves_of_one_path_are_refused_since_they_would_share_noise(like):
    with pytest.raises(
        ValueError, match="Expected leaves whose paths read differently"
    ):
        gaussian_noise(DATA, 0, like, 1.0)


@pytest.mark.parametrize(
    ("stddev", "error", "expected"),
    [
        (-1.0, ValueError, "a number >= 0"),
        (float("nan"), ValueError, "a finite number"),
        (float("inf"), ValueError, "a finite number"),
        (1e-40, ValueError, "a standard deviation that float32 holds"),
        (1e39, ValueError, "a standard deviation that float32 holds"),
        (jnp.float32(-1), ValueError, "a number >= 0"),
        (jnp.ones(2), ValueError, "a scalar standard deviation"),
        (jnp.ones(1), ValueError, "a scalar standard deviation"),
        (None, TypeError, "a real number"),
        (True, TypeError, "a real number"),
        (1j, TypeError, "a real number"),
    ],
    ids=repr,
)
def test_what_is_no_standard_deviation_is_refused(stddev, error, expected):
    with pytest.raises(error, match=f"Expected {expected}, got stddev"):
        gaussian_noise(DATA, 0, vector(), stddev)


@pytest.mark.parametrize(
    ("stddev", "error"), [(jnp.ones(2), ValueError), (jnp.complex64(1), TypeError)]
)
def test_what_is_no_standard_deviation_is_refused_under_a_trace(stddev, error):
    with pytest.raises(error, match=r"Expected a .*got stddev"):
        jax.jit(lambda s: gaussian_noise(DATA, 0, vector(), s))(stddev)


def test_a_tiny_standard_deviation_is_lawful_where_the_leaf_can_hold_it():
    with jax.enable_x64(True):
        noise = gaussian_noise(DATA, 0, vector(dtype=jnp.float64), 1e-40)
        assert p_value(noise, 1e-40) > 1e-3


@pytest.mark.parametrize(
    ("like", "error"),
    [({}, ValueError), (jnp.zeros(3, int), TypeError), ({"a": True}, TypeError)],
    ids=repr,
)
def test_trees_without_floating_point_leaves_are_refused(like, error):
    with pytest.raises(error, match="Expected"):
        gaussian_noise(DATA, 0, like, 1.0)
