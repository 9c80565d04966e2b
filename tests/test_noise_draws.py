import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpjax.noise import draws, normal, threefry

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
EXCHANGES = r"all-gather|all-reduce|all-to-all|collective-permute"


def keys(count):
    words = np.random.default_rng(5).integers(0, 2**32, (count, 2), dtype=np.uint32)
    return jnp.asarray(words)


def specs_of(*shapes):
    return tuple((shape, SINGLE) for shape in shapes)


@jax.jit
def value_at(key, index):
    zero = jnp.zeros_like(index)
    return normal.box_muller(*threefry.threefry2x32((key[0], key[1]), (zero, index)))


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (127,),
        (128,),
        (3, 43),
        (1024, 1024),
        (1025, 1024),
        (2**20 + 1,),
        (2**21,),
        (350_001, 3),
        (3, 3, 400, 300),
        (400, 300, 3, 3),
    ],
    ids=str,
)
def test_the_value_at_a_flat_index_is_the_normal_of_its_block(shape):
    (leaf,) = draws.standard_normals(keys(1), specs_of(shape))
    assert leaf.shape == shape
    size = math.prod(shape)
    expected = value_at(keys(1)[0], jnp.arange(size, dtype=jnp.uint32))
    np.testing.assert_array_equal(leaf.ravel(), expected)


def test_company_does_not_change_a_leaf():
    shapes = [(5,), (2**20 + 2,), (0, 3), (300, 7), (), (1100, 1000), (129,)]
    together = draws.standard_normals(keys(7), specs_of(*shapes))
    for i, shape in enumerate(shapes):
        (alone,) = draws.standard_normals(keys(7)[i : i + 1], specs_of(shape))
        np.testing.assert_array_equal(together[i], alone)


def test_wide_leaves_are_made_of_the_inverse_cdf():
    with jax.enable_x64(True):
        spec = ((5, 300), DOUBLE)
        wide, narrow = draws.standard_normals(keys(2), (spec, ((5,), SINGLE)))
        index = jnp.arange(1500, dtype=jnp.uint32)
        key = keys(2)[0]
        block = threefry.threefry2x32((key[0], key[1]), (jnp.zeros_like(index), index))
        expected = normal.inverse_cdf(*block)
    assert (wide.dtype, narrow.dtype) == (DOUBLE, SINGLE)
    np.testing.assert_allclose(wide.ravel(), expected, rtol=1e-13)


def test_no_group_of_small_leaves_outgrows_its_offsets():
    leaves = [((2**20,), SINGLE)] * 2500 + [((2**20 + 1,), SINGLE), ((3,), DOUBLE)]
    groups = draws.groups_of_small(tuple(leaves))
    assert [i for group in groups for i in group] == list(range(2500))
    assert [len(group) for group in groups] == [1024, 1024, 452]


def test_leaves_of_several_groups_are_those_of_one(monkeypatch):
    specs = specs_of((300,), (5, 5), (1000,), (2,))
    expected = draws.standard_normals(keys(4), specs)
    monkeypatch.setattr(draws, "_MOST_ROWS", 3)
    assert len(draws.groups_of_small(specs)) == 3
    found = draws.standard_normals.__wrapped__(keys(4), specs)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(2**33 + 1,), (2**33 + 1, 3), (3, 2**31 + 1, 5)])
def test_huge_leaves_are_lawful(shape):
    # Traced only: nothing of this size is allocated.
    leaf = jax.eval_shape(
        lambda words: draws.standard_normals(words, specs_of(shape)), keys(1)
    )[0]
    assert leaf.shape == shape
    assert threefry.countable(draws.view_shape(shape))


def test_a_leaf_that_no_counter_fits_is_refused():
    with pytest.raises(ValueError, match="Expected leading axes that 32 bits can"):
        jax.eval_shape(
            lambda words: draws.standard_normals(words, specs_of((2**43,))), keys(1)
        )


def compiled_sum(*leaves):
    """Return the program that adds noise to leaves of given shapes and shardings."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    like = [
        jax.ShapeDtypeStruct(
            shape, SINGLE, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )
        for shape, spec in leaves
    ]
    specs = specs_of(*[shape for shape, _ in leaves])

    def add(words, sums):
        noise = draws.standard_normals(words, specs)
        return [a + b for a, b in zip(sums, noise, strict=True)]

    return jax.jit(add).lower(keys(len(leaves)), like).compile().as_text()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2048, 1024), ("x",)),
        ((2048, 1024), (None, "x")),
        ((1024, 256, 3, 3), (None, "x")),
        ((1024, 16, 96), (None, "x")),
        ((2**21,), ("x",)),
    ],
    ids=str,
)
def test_each_device_draws_its_part_of_a_large_leaf(shape, spec):
    program = compiled_sum((shape, spec))
    assert not re.search(EXCHANGES, program)
    shapes = re.findall(r"(?:f32|u32)\[([\d,]+)\]", program)
    sizes = [math.prod(map(int, found.split(","))) for found in shapes]
    assert max(sizes) == math.prod(shape) // 2


def test_devices_exchange_nothing_for_the_sake_of_small_leaves():
    leaves = [
        ((256, 256), ("x",)),
        ((512, 512), (None, "x")),
        ((1024,), ("x",)),
        ((640, 8), (None, "x")),
        ((10,), ()),
        ((128, 64, 3, 3), (None, "x")),
    ]
    for some in (leaves, leaves[::-1], leaves[:1], leaves[:2], leaves[2:3]):
        assert not re.search(EXCHANGES, compiled_sum(*some))


def test_noise_is_the_same_whatever_becomes_of_it():
    def use(words, sums):
        (noise,) = draws.standard_normals(words, specs_of((1001,)))
        return sums + noise, sums * noise, jnp.cumsum(noise), noise[::2]

    drawn = draws.standard_normals(keys(1), specs_of((1001,)))[0]
    added, _, _, even = jax.jit(use)(keys(1), jnp.zeros(1001))
    np.testing.assert_array_equal(added, drawn)
    np.testing.assert_array_equal(even, drawn[::2])
