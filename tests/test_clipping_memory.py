"""The largest microbatch whose gradient fits a budget."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax.clipping import PerExample, memory
from dpjax.clipping.microbatch import in_microbatches

W = jnp.ones((40, 60)) / 10
X = jnp.asarray(np.random.default_rng(0).normal(size=(48, 40)), jnp.float32)


def make(size):
    """Return a function whose temporaries grow with the size, quick to compile."""

    def total(w, x):
        def of_piece(piece, mask):
            sums = jnp.sort(w * piece[:, :, None], axis=1).sum(axis=0)
            return sums, PerExample(None, None)

        return in_microbatches(of_piece, x, None, size)[0]

    return total


def gradient(size):
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    return dpjax.clipped_grad(loss, 1.0, microbatch_size=size, engine="vmap")


def found_with(budget, make=make):
    return memory.largest_microbatch_size(
        make, W, X, batch_size=48, memory_budget=budget
    )


@functools.cache
def analysis(size, make=make):
    program = jax.jit(make(size)).lower(W, X).compile().memory_analysis()
    return (
        program.temp_size_in_bytes
        + program.argument_size_in_bytes
        + program.output_size_in_bytes
    )


@pytest.mark.parametrize("size", [1, 4, 12])
def test_the_bytes_are_the_compilers_and_the_next_size_does_not_fit(size):
    budget = analysis(size)
    found = found_with(budget)
    assert (found.size, found.bytes, found.budget) == (size, budget, budget)
    sizes = memory.sizes(48)
    assert found.next_size == sizes[sizes.index(size) + 1]
    assert found.next_bytes == analysis(found.next_size) > budget
    assert memory.compiled_bytes(make(size), W, X) == budget


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 12])
def test_so_it_is_for_clipped_gradients(size):
    budget = analysis(size, gradient)
    found = found_with(budget, gradient)
    assert (found.size, found.bytes) == (size, budget)
    assert found.next_bytes == analysis(found.next_size, gradient) > budget


def test_a_batch_that_fits_is_taken_whole():
    found = found_with(10**9)
    assert found == (48, analysis(48), 10**9, None, None)


def test_a_budget_for_less_than_one_example_is_refused_by_what_one_takes():
    least = analysis(1)
    with pytest.raises(memory.MemoryBudgetError, match=f"{least} bytes.*={least - 1}"):
        found_with(least - 1)


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda: (W, X))
    found = memory.largest_microbatch_size(
        make, *shapes, batch_size=48, memory_budget=analysis(8)
    )
    assert found.size == 8


@given(st.integers(1, 3000))
def test_sizes_are_the_least_of_each_number_of_pieces(batch):
    sizes = memory.sizes(batch)
    pieces = [-(-batch // size) for size in sizes]
    assert sizes[0] == 1
    assert sizes[-1] == batch
    assert sorted(set(pieces), reverse=True) == pieces
    for size, number in zip(sizes, pieces, strict=True):
        assert size == 1 or -(-batch // (size - 1)) > number


@settings(max_examples=200)
@given(
    st.integers(1, 3000),
    st.floats(0, 1e6),
    st.floats(1, 1e4),
    st.floats(0.2, 3),
    st.floats(0, 1.2),
)
def test_the_largest_that_fits_is_found_with_few_compilations(
    batch, base, slope, power, share
):
    tried = []

    def measure(size):
        tried.append(size)
        return int(base + slope * size**power)

    sizes, most = memory.sizes(batch), int(base + slope * batch**power)
    budget = max(int(base + slope), int(share * most))
    found = memory._largest(sizes, measure, budget)
    calls = len(tried)
    assert found.size == max(size for size in sizes if measure(size) <= budget)
    assert found.bytes == measure(found.size)
    if found.next_size is not None:
        assert found.next_size == sizes[sizes.index(found.size) + 1]
        assert found.next_bytes == measure(found.next_size)
    assert calls <= 6 + 3 * np.log2(len(sizes))


def test_along_a_line_four_compilations_are_enough():
    tried = []

    def measure(size):
        tried.append(size)
        return 1000 + 7 * size

    found = memory._largest(memory.sizes(1096), measure, 1000 + 7 * 300)
    assert found.size == 274
    assert len(tried) <= 4


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_is_a_positive_number_of_bytes(budget):
    with pytest.raises(ValueError, match="memory_budget="):
        found_with(budget)
    with pytest.raises(TypeError, match=r"memory_budget=1\.5"):
        found_with(1.5)


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_a_device_says_what_is_free(monkeypatch):
    stats = {"bytes_limit": 1000, "bytes_in_use": 300}
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(stats)])
    assert memory.available_bytes() == 700
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"bytes_limit": 900})])
    assert memory.available_bytes() == 900


def test_else_the_hosts_free_memory_is_shared_by_its_devices(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:  800 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert memory.available_bytes() == 800 * 1024 // 4
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 800 * 1024 // 4
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.available_bytes() == 1000


def test_where_nobody_says_a_budget_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({})])
    assert memory.available_bytes() > 0  # a POSIX system counts its free pages

    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    with pytest.raises(memory.MemoryBudgetError, match="memory_budget=None"):
        memory.available_bytes()


def test_a_compiler_that_does_not_say_is_an_error(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    with pytest.raises(memory.MemoryBudgetError, match="compiler says"):
        found_with(10**6)
