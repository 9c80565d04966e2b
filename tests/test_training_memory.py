"""The microbatch size of a run, where it is to be found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import mechanism, training
from dpjax.clipping import memory as compiled
from dpjax.training import folder, memory, storage

needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax")

X = np.random.default_rng(0).normal(size=(96, 40)).astype(np.float32)
PARAMS = {"w": jnp.ones((40, 50)) / 10, "v": jnp.ones((50,)) / 10}
DPSGD = mechanism.DPSGD(
    num_examples=96,
    expected_batch_size=24,
    num_steps=3,
    l2_norm_clip=0.5,
    noise_multiplier=1.0,
    static_batch_size=12,
)
OPEN = mechanism.NonPrivate(
    num_examples=96, expected_batch_size=24, num_steps=3, static_batch_size=12
)
BUDGET = 60_000


def loss_fn(params, x):
    return jnp.tanh(jnp.tanh(x @ params["w"]) @ params["v"])


def run(plan=DPSGD, **options):
    quiet = training.Logging(progress=False)
    options = {"key": 3, "engine": "vmap", "logging": quiet} | options
    return training.fit(plan, loss_fn, PARAMS, X, optax.sgd(0.3), **options)


def assert_close(left, right):
    leaves = map(jax.tree.leaves, (left.params, right.params))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture
def asked(monkeypatch):
    """Return what the search was asked for and found, call by call."""
    calls, search = [], memory.memory.largest_microbatch_size

    def recorded(make, *arguments, **options):
        found = search(make, *arguments, **options)
        calls.append((make, arguments, found))
        return found

    monkeypatch.setattr(memory.memory, "largest_microbatch_size", recorded)
    return calls


@pytest.mark.slow
def test_the_gradient_of_a_chunk_is_measured_for_sizes_until_one_fits(monkeypatch):
    rows, tried = DPSGD.chunk_size // jax.local_device_count(), []

    def measure(size, state, batch, mask, words, number):
        tried.append(size)
        assert mask.shape == (rows,)
        assert [leaf.shape for leaf in batch] == [(rows, 40)]
        jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)
        return 100 * size

    monkeypatch.setattr(memory, "make_gradient", lambda _, loss: loss.microbatch_size)
    monkeypatch.setattr(compiled, "compiled_bytes", measure)
    run(microbatch_size="auto", memory_budget=100 * rows)
    assert tried == [rows]
    run(microbatch_size="auto", memory_budget=250)
    assert tried[1:] == [rows, 1, 2, 3]


@pytest.mark.slow
def test_what_is_found_fits_the_gradient_of_a_chunk_and_the_next_does_not(asked):
    run(microbatch_size="auto", memory_budget=BUDGET)
    ((make, arguments, found),) = asked
    assert 1 < found.size < DPSGD.chunk_size
    assert found.bytes <= BUDGET < found.next_bytes
    for size, taken in ((found.size, found.bytes), (found.next_size, found.next_bytes)):
        program = jax.jit(make(size)).lower(*arguments).compile().memory_analysis()
        assert taken == (
            program.temp_size_in_bytes
            + program.argument_size_in_bytes
            + program.output_size_in_bytes
        )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
def test_the_numbers_are_those_of_the_size_that_was_found(engine, asked):
    auto = run(microbatch_size="auto", memory_budget=BUDGET, engine=engine)
    given = run(microbatch_size=asked[0][2].size, engine=engine)
    jax.tree.map(np.testing.assert_array_equal, auto.params, given.params)
    assert_close(auto, run(engine=engine))


@pytest.mark.slow
def test_training_without_privacy_fits_its_budget_too():
    assert_close(run(OPEN, microbatch_size="auto", memory_budget=BUDGET), run(OPEN))


def test_a_budget_that_is_too_small_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(compiled.MemoryBudgetError, match="one example at a time"):
        run(
            microbatch_size="auto",
            memory_budget=1000,
            run_dir=tmp_path / "run",
            delta=1e-5,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"microbatch_size": "all"}, ValueError, "microbatch_size='all'"),
        ({"memory_budget": 10**6}, ValueError, "got microbatch_size=None"),
        (
            {"memory_budget": 10**6, "microbatch_size": 4},
            ValueError,
            "got microbatch_size=4",
        ),
        ({"memory_budget": 0, "microbatch_size": "auto"}, ValueError, "budget=0"),
        ({"memory_budget": 2.5, "microbatch_size": "auto"}, TypeError, "budget=2.5"),
    ],
)
def test_arguments_that_disagree_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


@needs_orbax
def test_a_resumed_run_has_the_size_that_was_found(tmp_path, monkeypatch):
    def find(size):
        found = compiled.FittingSize(size, 100 * size, 1000, size + 1, 1001)
        monkeypatch.setattr(compiled, "largest_microbatch_size", lambda *_, **__: found)
        return found._asdict()

    path, auto = tmp_path / "run", {"microbatch_size": "auto", "delta": 1e-5}
    found = find(4)
    whole = run(**auto, run_dir=path)
    saved = json.loads((path / "config.json").read_text())["training"]
    assert saved["microbatch_size"] == 4
    assert saved["memory"] == found | {"memory_budget": None}
    find(6)
    again = run(**auto, run_dir=path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    with pytest.raises(training.ResumeError, match="memory_budget was None and is now"):
        run(**auto, run_dir=path, resume=True, memory_budget=1000)
    with pytest.raises(training.ResumeError, match="size was 4 and is now 2"):
        run(microbatch_size=2, delta=1e-5, run_dir=path, resume=True)
    (path / "config.json").write_text("{")
    with pytest.raises(folder.RunFolderError, match=r"config\.json"):
        run(**auto, run_dir=path, resume=True)
