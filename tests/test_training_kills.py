"""Runs that are killed: they end as if they had not been, and release nothing twice."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import threading

import compilations
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax import mechanism, training
from dpjax.training import background, checkpoints, fingerprint, storage

if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

SCRIPT = pathlib.Path(__file__).with_name("killed_runs.py")
DATA = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
PLAN = mechanism.DPSGD(
    num_examples=40,
    expected_batch_size=10,
    num_steps=8,
    l2_norm_clip=1.0,
    noise_multiplier=1.0,
)


kept_compilations = compilations.kept_compilations


def loss_fn(params, x):
    return ((params - x) ** 2).sum()


def run(path, released, *, stop_after=None, **options):
    """Train; note what every step releases, and stop by an error after some."""

    def evaluate(params):
        released.append(fingerprint.tree_digest(params))
        if len(released) == stop_after:
            raise RuntimeError("power cut")
        return {"first": params[0]}

    defaults = {"every": 3, "plan": PLAN, "data": DATA, "optimizer": optax.sgd(0.1)}
    chosen = defaults | options
    return training.fit(
        chosen["plan"],
        loss_fn,
        jnp.zeros(3),
        chosen["data"],
        chosen["optimizer"],
        key=3,
        delta=1e-5,
        run_dir=path,
        resume=(path / "config.json").exists(),
        evaluate=evaluate,
        logging=training.Logging(every=1, progress=False),
        checkpointing=training.Checkpointing(every=chosen["every"]),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path, released = tmp_path_factory.mktemp("whole") / "run", []
    run(path, released)
    assert len(set(released)) == PLAN.num_steps
    return released, outcome(path)


def outcome(path):
    summary = json.loads((path / "summary.json").read_text())
    return summary["sha256"], (path / "metrics.jsonl").read_bytes()


def test_steps_that_are_done_again_release_the_same_numbers(tmp_path, whole):
    released, ended = whole
    path, first, second = tmp_path / "run", [], []
    with pytest.raises(RuntimeError, match="power cut"):
        run(path, first, stop_after=5)
    assert checkpoints.steps(path / "checkpoints") == [3]
    run(path, second)
    assert first == released[:5]
    assert second == released[3:]  # the 4th and 5th a second time
    assert outcome(path) == ended


# A thread that writes.


@pytest.fixture
def gate(monkeypatch):
    """Let no checkpoint be written before the gate is opened."""
    opened, write = threading.Event(), storage.write

    def waiting(*arguments):
        assert opened.wait(60)
        write(*arguments)

    monkeypatch.setattr(storage, "write", waiting)
    yield opened
    opened.set()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, gate, whole):
    steps = []

    def opening(released):
        class Released(list):
            def append(self, digest):
                steps.append(checkpoints.steps(tmp_path / "run" / "checkpoints"))
                super().append(digest)
                if len(self) == 6:
                    gate.set()

        return Released(released)

    run(tmp_path / "run", opening([]))
    assert steps[:6] == [[]] * 6  # steps 4 to 6 came while that of step 3 was written
    assert outcome(tmp_path / "run") == whole[1]


def test_fit_returns_when_the_last_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    ended, write = [], storage.write

    def slow(path, step, *rest):
        threading.Event().wait(0.2)
        write(path, step, *rest)
        ended.append(step)

    monkeypatch.setattr(storage, "write", slow)
    run(tmp_path / "run", [])
    assert ended == [3, 6, 8]
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [6, 8]
    assert not [t for t in threading.enumerate() if "dpjax" in t.name]


def test_the_state_is_copied_before_it_may_change(tmp_path, gate):
    writer = background.Writer(tmp_path / "checkpoints", 2, tmp_path / "lines")
    host, device = np.arange(3.0), jnp.arange(4.0)
    writer.hand_over(1, {"host": host, "device": device}, {})
    host[:] = 9
    device.delete()
    gate.set()
    writer.settle()
    like = {"host": np.zeros(3), "device": np.zeros(4, np.float32)}
    found = checkpoints.restore(tmp_path / "checkpoints", like)
    np.testing.assert_array_equal(found.tree["host"], np.arange(3.0))
    np.testing.assert_array_equal(found.tree["device"], np.arange(4.0))
    writer.close()


@pytest.mark.slow
def test_one_checkpoint_is_written_at_a_time(tmp_path, monkeypatch):
    at_work, most, write = [], [], storage.write

    def counted(path, step, *rest):
        at_work.append(step)
        most.append(len(at_work))
        write(path, step, *rest)
        at_work.remove(step)

    monkeypatch.setattr(storage, "write", counted)
    run(tmp_path / "run", [], every=1)
    assert most == [1] * PLAN.num_steps


@pytest.mark.slow
def test_a_failure_is_raised_by_the_next_checkpoint_and_the_run_goes_on_later(
    tmp_path, monkeypatch, whole
):
    path, released, write = tmp_path / "run", [], storage.write

    def full(target, step, *rest):
        if step == 3:
            raise OSError(28, "No space left on device")
        write(target, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        with pytest.raises(training.CheckpointError, match="No space left"):
            run(path, released)
    assert len(released) == 6
    assert checkpoints.steps(path / "checkpoints") == []
    run(path, [])
    assert outcome(path) == whole[1]


def test_a_failure_of_the_last_checkpoint_is_raised_at_the_end(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(training.CheckpointError, match="No space left"):
        run(tmp_path / "run", [], every=100)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_error_of_the_run_is_not_hidden_by_that_of_a_checkpoint(
    tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(RuntimeError, match="power cut") as caught:
        run(tmp_path / "run", [], stop_after=4)
    assert "No space left" in "".join(caught.value.__notes__)


# What a checkpoint holds, and whose it is.


def test_a_checkpoint_holds_all_that_the_next_step_depends_on(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power cut"):
        run(path, [], stop_after=5)
    leaves, record = storage.read(path / "checkpoints" / "3")
    names = {name.split("[")[1] for name in leaves}
    assert {"'state'].params", "'key_words']"} < names
    assert any("opt_state" in name for name in names)
    assert int(leaves["['state'].steps"]) == record["sampler"]["position"] == 3
    assert record["ledger"] == json.loads(PLAN.ledger(step=3).to_json())
    assert record["config"] == json.loads((path / "config.json").read_text())
    private = json.loads((path / "private.json").read_text())
    assert leaves["['key_words']"].tolist() == private["key"]
    assert record["data"] == private["data"]


OTHERS = {
    "mechanism": (
        {"plan": mechanism.DPSGD(
            num_examples=40, expected_batch_size=10, num_steps=8, l2_norm_clip=1.0,
            noise_multiplier=2.0)},
        r"mechanism.noise_multiplier was 2.0 and is now 1.0",
    ),
    "optimizer": ({"optimizer": optax.sgd(0.2)}, "model.optimizer was"),
    "data": ({"data": DATA + 1}, "the data are not the same"),
    "model": ({"optimizer": optax.adam(0.1)}, r"leaf \['state'\].opt_state"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "mechanism",
        *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS if n != "mechanism"),
    ],
)
def test_a_checkpoint_that_was_put_there_from_another_run_is_refused(tmp_path, name):
    options, message = OTHERS[name]
    own, other = tmp_path / "own", tmp_path / "other"
    for path, chosen in ((own, {}), (other, options)):
        with pytest.raises(RuntimeError, match="power cut"):
            run(path, [], stop_after=5, **chosen)
    (own / "checkpoints").rename(tmp_path / "aside")
    (other / "checkpoints").rename(own / "checkpoints")
    before = sorted(os.walk(own))
    with pytest.raises((training.ResumeError, training.CheckpointError), match=message):
        run(own, [])
    assert sorted(os.walk(own)) == before


# Kills.


def lines(path):
    return (path / "released").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "kills"), [(0, 12), (1, 12)])
def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_one_that_was_not(
    tmp_path, record_property, seed, kills
):
    root = SCRIPT.parents[1]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(seed), str(kills)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(
                [str(root), os.environ.get("PYTHONPATH", "")]
            ),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": "",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    hits = collections.Counter(found["hits"])
    record_property("kills", dict(hits))
    print(f"kills: {dict(hits)} in {found['runs']} runs")
    assert hits.total() == kills
    assert hits["in a checkpoint"] >= 1
    whole = tmp_path / "uninterrupted"
    released = lines(whole)
    assert len(set(released)) == len(released) == 24
    for number in range(found["runs"]):
        path = tmp_path / str(number)
        assert outcome(path / "run") == outcome(whole / "run")
        assert set(lines(path)) == set(released)  # again, but never anything else
