"""Where a run's examples come from: arrays, files, and records that Grain reads."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import chain

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax import mechanism, sampling, training
from dpjax.training import checkpoints, fingerprint, sources, storage

pytest.importorskip("grain")
import grain

needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
WORDS = jnp.array([1, 2], jnp.uint32)


class Records:
    """A source that counts what is read of it, and may fail or give something else."""

    def __init__(self, count=60, record=lambda i: (X[i], Y[i]), name="records"):
        self.count, self.record, self.name = count, record, name
        self.seen, self.threads = [], set()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.seen.append(index)
        self.threads.add(threading.get_ident())
        return self.record(index)

    def __repr__(self):
        return f"{self.name} at 0x{id(self):x}"


kept_compilations = compilations.kept_compilations


def mapped(path, arrays=(X, Y)):
    found = []
    for number, array in enumerate(arrays):
        file = path / f"{number}"
        array.tofile(file)
        found.append(np.memmap(file, array.dtype, "r", shape=array.shape))
    return tuple(found)


def chunks(indices, real=None):
    indices = np.asarray(indices, np.int32)
    mask = np.arange(len(indices)) < (len(indices) if real is None else real)
    return sampling.IndexChunk(indices * mask, mask)


def opened(data, count=60):
    return sources.open_source(data, count)


KINDS = {
    "arrays": lambda path: (X, Y),
    "jax": lambda path: (jnp.asarray(X), jnp.asarray(Y)),
    "mapped": mapped,
    "records": lambda path: Records(),
    "grain": lambda path: grain.MapDataset.source(Records()),
    "transformed": lambda path: grain.MapDataset.range(60).map(lambda i: (X[i], Y[i])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_data_give_the_same_chunks(tmp_path, kind):
    source = opened(KINDS[kind](tmp_path))
    steps = [
        [chunks([5, 3, 59, 0], 3), chunks([7, 7, 8, 1], 1)],
        [chunks([0, 0, 0, 0], 0)],
        [chunks([30, 31, 32, 33])],
    ]
    found = list(source.batches(steps))
    assert [len(step) for step in found] == [2, 1, 1]
    for read, want in zip(chain(*found), chain(*steps), strict=True):
        np.testing.assert_array_equal(read.rows[0], X[want.indices])
        np.testing.assert_array_equal(read.rows[1], Y[want.indices])
        assert [leaf.dtype for leaf in read.rows] == [X.dtype, Y.dtype]
        np.testing.assert_array_equal(read.mask, want.mask)
    shapes = source.chunk_shapes(4)
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, found[0][0])
    np.testing.assert_array_equal(source.rows(np.array([9, 2]))[0], X[[9, 2]])
    np.testing.assert_array_equal(source.example[0], X[0])


@pytest.mark.parametrize(
    ("record", "dtype"),
    [
        (lambda i: {"a": X[i], "b": [Y[i], jnp.asarray(X[i])]}, None),
        (lambda i: i / 2, np.float64),
        (lambda i: np.array([i > 3]), np.bool_),
        (lambda i: X[i].astype(jnp.bfloat16), jnp.bfloat16),
    ],
)
def test_a_record_may_be_any_tree_of_numbers(record, dtype):
    source = opened(Records(record=record))
    (rows,) = source.rows(np.array([4, 2, 9]))
    want = [record(index) for index in (4, 2, 9)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *want)
    jax.tree.map(np.testing.assert_array_equal, rows, stacked)
    assert dtype is None or rows.dtype == dtype


def test_only_rows_that_are_examples_are_read():
    data = Records()
    source = opened(data)
    data.seen.clear()
    list(source.batches([[chunks([5, 3, 9, 0, 0, 0], 3)], [chunks([0] * 4, 0)]]))
    assert sorted(data.seen) == [3, 5, 9]


def test_rows_are_read_ahead_in_threads_but_not_further_than_two_chunks():
    data = Records(10_000, lambda i: np.float32(i))
    drawn = []

    def steps():
        for step in range(100):
            drawn.append(step)
            yield [chunks(np.arange(64 * step, 64 * step + 64))]

    batches = opened(data, 10_000).batches(steps())
    next(batches)
    deadline = time.monotonic() + 20
    while len(data.seen) < 1 + 3 * 64 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(data.seen) == 1 + 3 * 64
    assert len(drawn) <= 4
    assert len(data.threads) > 1
    batches.close()


def test_the_order_is_kept_whichever_row_comes_first():
    def late(index):
        time.sleep(0.002 * (index % 5))
        return X[index]

    steps = [[chunks(RNG.permutation(60)[:20])] for _ in range(5)]
    found = opened(Records(record=late)).batches(steps)
    for read, want in zip(found, steps, strict=True):
        np.testing.assert_array_equal(read[0].rows[0], X[want[0].indices])


def missing(index):
    raise OSError("no such device")


STRANGE = {
    "shape": (lambda i: (X[i, :2], Y[i]), r"record 41 with .*float32\[2\]"),
    "dtype": (lambda i: (X[i].astype(np.float64), Y[i]), r"record 41 with .*float64"),
    "structure": (lambda i: {"x": X[i]}, "record 41 of PyTreeDef"),
    "one": (lambda i: X[i], "record 41 of PyTreeDef"),
    "filtered": (lambda i: None, "a record at every index, got None at 41"),
    "disk": (missing, "record 41 of 60 to be readable, got OSError: no such device"),
}


def but_one(strange, index=41):
    return Records(record=lambda i: strange(i) if i == index else (X[i], Y[i]))


@pytest.mark.parametrize("name", STRANGE)
def test_a_record_unlike_the_first_ends_the_step_that_needs_it_by_its_index(name):
    strange, message = STRANGE[name]
    source = opened(but_one(strange))
    steps = [[chunks([1, 2])], [chunks([3, 41])], [chunks([5, 6])]]
    batches = source.batches(steps)
    np.testing.assert_array_equal(next(batches)[0].rows[0], X[[1, 2]])
    with pytest.raises(sources.DataError, match=message) as caught:
        next(batches)
    if name == "disk":
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Records(59), ValueError, "num_examples=60, got its length=59"),
        (Records(record=lambda i: "text"), sources.DataError, "trees of numbers"),
        (Records(record=lambda i: ()), sources.DataError, "trees of numbers"),
        (Records(record=lambda i: None), sources.DataError, "got None at 0"),
        (Records(record=missing), sources.DataError, "record 0 of 60"),
        ((Records(), Records()), TypeError, "one source .* got data with='Records'"),
        ((X, Records()), TypeError, "one source .* got data with='Records'"),
        (
            grain.MapDataset.source(Records()).to_iter_dataset(),
            TypeError,
            "got data with='PrefetchIterDataset'",
        ),
        ("path/to/data", ValueError, "leading batch axis"),
        (
            grain.MapDataset.source(Records(30)).repeat(2),
            ValueError,
            "each example once",
        ),
        (
            grain.MapDataset.source(Records(6)).repeat(10).map(lambda r: r),
            ValueError,
            "each example once",
        ),
    ],
    ids=lambda value: None,
)
def test_data_that_cannot_be_used_is_refused_at_once(data, error, message):
    with pytest.raises(error, match=message):
        opened(data)


def test_without_grain_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "dpjax.training.reading")
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(sources.DataError, match=r"pip install 'dpjax\[train\]'"):
        opened(Records())
    assert opened((X, Y)).num_examples == 60


@pytest.mark.slow
def test_grain_is_imported_when_it_is_needed_only():
    program = "import dpjax.training, sys; print('grain' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=pathlib.Path(dpjax.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"


# By what data are known again.


def test_a_digest_of_records_sees_what_is_read_and_what_is_said():
    digest = opened(Records()).digest(WORDS)
    assert opened(Records()).digest(WORDS) == digest
    others = [
        opened(Records(59), 59).digest(WORDS),
        opened(Records(name="another")).digest(WORDS),
        opened(but_one(lambda i: (X[i] + 1, Y[i]))).digest(WORDS),
        opened(Records(record=lambda i: (X[i], np.int64(Y[i])))).digest(WORDS),
        opened(Records()).digest(WORDS[::-1]),
    ]
    versioned = Records()
    versioned.fingerprint = "version 2"
    others.append(opened(versioned).digest(WORDS))
    assert len({digest, *others}) == 7


def test_of_very_many_records_as_many_are_hashed_as_promised(tmp_path):
    data = Records(10**9, lambda i: np.float32(i))
    source = opened(data, 10**9)
    data.seen.clear()
    source.digest(WORDS)
    assert len(set(data.seen)) == len(data.seen) == fingerprint.SAMPLED
    assert 0.45 < np.mean(data.seen) / 10**9 < 0.55
    seen = set(data.seen)
    data.seen.clear()
    source.digest(WORDS[::-1])
    assert len(seen & set(data.seen)) < 5


def test_a_mapped_file_is_sampled_and_an_array_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "SAMPLED", 5)
    (file,) = mapped(tmp_path, [X])
    copy = np.array(file)
    digests = {"mapped": set(), "memory": set()}
    for row in range(60):
        changed = np.memmap(file.filename, X.dtype, "c", shape=X.shape)
        changed[row] += 1
        digests["mapped"].add(opened(changed).digest(WORDS))
        array = copy.copy()
        array[row] += 1
        digests["memory"].add(opened(array).digest(WORDS))
    assert len(digests["mapped"]) == 1 + 5
    assert opened(file).digest(WORDS) in digests["mapped"]
    assert len(digests["memory"]) == 60
    assert opened(file[::-1]).digest(WORDS) not in digests["mapped"]


# Memory.


def test_a_thousand_million_records_take_memory_for_the_batch():
    data = Records(10**9, lambda i: (np.full(100, i, np.float32), np.int32(i % 7)))
    data.seen = type("Nothing", (), {"append": lambda self, index: None})()
    source = opened(data, 10**9)
    steps = sampling.Poisson().batches(
        np.array([1, 2], np.uint32),
        num_examples=10**9,
        expected_batch_size=1000,
        num_steps=6,
        chunk_size=1096,
    )
    tracemalloc.start()
    sizes = [int(mask.sum()) for step in source.batches(steps) for _, mask in step]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 800 < min(sizes) <= max(sizes) < 1200
    chunk = 1096 * (400 + 4)
    assert peak < 6 * chunk + 500_000


OF_A_FILE = """
import re, resource, sys
import jax.numpy as jnp, numpy as np, optax
from dpjax import mechanism, training

def kilobytes(name):
    with open("/proc/self/status") as file:
        return int(re.search(name + r":\\s+(\\d+) kB", file.read())[1])

count, path = 10**9, sys.argv[1]
open(path, "wb").truncate(4 * count)
written = np.memmap(path, np.float32, "r+", shape=(count, 1))
written[::10**7] = 1.0
del written
file = np.memmap(path, np.float32, "r", shape=(count, 1))

class Rows:
    def __len__(self):
        return count
    def __getitem__(self, index):
        return file[index]

limit = (kilobytes("VmData") << 10) + 2 * 10**9
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(file)
except MemoryError:
    print("limited")

held = [kilobytes("RssAnon")]
plan = mechanism.DPSGD(num_examples=count, expected_batch_size=1000, num_steps=30,
                       l2_norm_clip=1.0, noise_multiplier=1.0)
result = training.fit(plan, lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(1),
                      Rows() if sys.argv[2] == "rows" else file, optax.sgd(0.1), key=1,
                      evaluate=lambda w: held.append(kilobytes("RssAnon")) or {},
                      logging=training.Logging(every=1, progress=False))
print(result.steps, max(held) - held[0], float(result.params[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_DATA")
def test_a_run_on_a_file_of_a_thousand_million_examples_takes_little_memory(tmp_path):
    # 4 GB, of which next to nothing is on the disk, and a limit of 2 GB.
    said = []
    for kind in ("mapped", "rows"):
        done = subprocess.run(
            [sys.executable, "-c", OF_A_FILE, str(tmp_path / "file"), kind],
            cwd=pathlib.Path(dpjax.__file__).parents[1],
            env=os.environ | {"XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        limited, steps, grown, param = done.stdout.split()
        assert (limited, steps) == ("limited", "30")
        assert int(grown) < 400_000
        said.append(param)
    assert said[0] == said[1]


# Runs.


DPSGD = mechanism.DPSGD(
    num_examples=60,
    expected_batch_size=20,
    num_steps=12,
    l2_norm_clip=0.7,
    noise_multiplier=1.0,
    static_batch_size=16,
)


def loss_fn(w, x, y):
    return optax.sigmoid_binary_cross_entropy(x @ w, y)


def run(data, plan=DPSGD, **options):
    quiet = training.Logging(progress=False)
    optimizer = optax.sgd(0.1)
    options = {"key": 7, "delta": 1e-5, "logging": quiet} | options
    return training.fit(plan, loss_fn, jnp.zeros(3), data, optimizer, **options)


@functools.cache
def of_arrays():
    return np.asarray(run((X, Y)).params)


@pytest.mark.parametrize("kind", ["mapped", "grain"])
def test_a_run_is_the_same_bit_for_bit_wherever_its_data_are(tmp_path, kind):
    result = run(KINDS[kind](tmp_path))
    np.testing.assert_array_equal(result.params, of_arrays())


def test_a_record_that_is_not_finite_is_reported_and_counts_nothing():
    result = run(but_one(lambda i: (X[i] * np.nan, Y[i])))
    assert result.summary["not_private"]["non_finite_examples"] > 0
    assert np.isfinite(result.params).all()


@needs_orbax
def test_a_disk_that_fails_midway_leaves_a_run_that_goes_on(tmp_path):
    path, calls = tmp_path / "run", []

    def failing(index):
        calls.append(index)
        if len(calls) > 60 + 1 + 120:
            raise OSError("no such device")
        return X[index], Y[index]

    every = training.Checkpointing(every=2)
    with pytest.raises(sources.DataError, match="no such device"):
        run(Records(record=failing), run_dir=path, checkpointing=every)
    kept = checkpoints.steps(path / "checkpoints")
    assert kept
    assert 2 <= kept[-1] <= 8
    result = run(Records(), run_dir=path, checkpointing=every, resume=True)
    np.testing.assert_array_equal(result.params, of_arrays())


@needs_orbax
@pytest.mark.slow
def test_a_run_is_not_taken_up_with_other_records(tmp_path):
    short = dataclasses.replace(DPSGD, num_steps=2)
    run(Records(), plan=short, run_dir=tmp_path / "run")
    other = but_one(lambda i: (X[i] + 1, Y[i]))
    with pytest.raises(training.ResumeError, match="data are not the same"):
        run(other, plan=short, run_dir=tmp_path / "run", resume=True)
