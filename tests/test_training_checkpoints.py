"""Checkpoints: whole or not at all, checked when they are read."""

import logging
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.training import checkpoints, storage

if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)


def example_tree():
    params = {
        "dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)},
        "half": jnp.array([1.5, jnp.nan, -jnp.inf], jnp.bfloat16),
        "none": None,
        "empty": jnp.zeros((0, 4)),
        "scalar": jnp.float32(-0.0),
    }
    return {
        "params": params,
        "opt_state": optax.chain(optax.clip(1.0), optax.adam(0.1)).init(
            params["dense"]
        ),
        "key_words": np.array([7, 2**32 - 1], np.uint32),
        "typed": jax.random.key(3),
        "wide": np.array([2**53 + 1], np.int64),
        "double": np.float64(np.pi) * np.ones(2),
        "flag": np.array(True),
    }


def leaf_bytes(tree):
    leaves = []
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves.append((np.asarray(leaf).dtype.name, np.asarray(leaf).tobytes()))
    return leaves


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


def test_every_leaf_comes_back_bit_for_bit(directory):
    tree = example_tree()
    checkpoints.save(directory, 5, tree, {"lines": 3, "seconds": 0.1}, keep=2)
    found = checkpoints.restore(directory, tree)
    assert (found.step, found.refused) == (5, ())
    assert found.record == {"lines": 3, "seconds": 0.1}
    assert jax.tree.structure(found.tree) == jax.tree.structure(tree)
    assert leaf_bytes(found.tree) == leaf_bytes(tree)
    assert isinstance(found.tree["params"]["scalar"], jax.Array)
    assert isinstance(found.tree["wide"], np.ndarray)


@pytest.mark.parametrize("count", [1, 200])
def test_few_arrays_and_many_come_back_from_their_layouts(directory, count, caplog):
    tree = {str(number): np.arange(number + 1.0) for number in range(count)}
    checkpoints.save(directory, 1, tree, {}, keep=1)
    assert leaf_bytes(checkpoints.restore(directory, tree).tree) == leaf_bytes(tree)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) < 40
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_only_the_newest_are_kept_and_the_newest_is_read(directory):
    for step in (1, 2, 9, 10):
        checkpoints.save(directory, step, {"a": np.full(2, step)}, {}, keep=2)
    assert checkpoints.steps(directory) == [9, 10]
    assert sorted(os.listdir(directory)) == ["10", "9"]
    found = checkpoints.restore(directory, {"a": np.zeros(2, int)})
    np.testing.assert_array_equal(found.tree["a"], [10, 10])


def test_no_checkpoint_was_ever_written(directory):
    assert checkpoints.restore(directory, {"a": np.zeros(1)}) is None
    assert checkpoints.steps(directory) == []


def test_checkpoints_are_closed_to_other_users(directory):
    checkpoints.save(directory, 1, {"a": np.zeros(1)}, {}, keep=1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def damage(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + changed + content[middle + 1 :])


@pytest.mark.parametrize("how", ["gone", "torn", "altered"])
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_taken(tmp_path, how):
    whole = tmp_path / "whole"
    tree = {"a": np.arange(300.0), "b": np.ones(2, np.float32)}
    for step in (1, 2):
        checkpoints.save(whole, step, tree, {}, keep=2)
    files = [path for path in (whole / "2").rglob("*") if path.is_file()]
    assert len(files) > 5
    for number, path in enumerate(sorted(files)):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        damage(copy / path.relative_to(whole), how)
        found = checkpoints.restore(copy, tree)
        assert found.step == 1, path
        assert len(found.refused) == 1
        assert found.refused[0].startswith("checkpoint 2 is damaged: ")
        assert sorted(os.listdir(copy)) == ["1", "2.refused"]


def test_arrays_have_a_hash_of_their_own_beside_the_files(directory):
    tree = {"a": np.arange(3.0)}
    checkpoints.save(directory, 1, tree, {}, keep=1)
    sums = directory / "1" / "SHA256SUMS"
    manifest = directory / "1" / "manifest" / "metadata"
    text = manifest.read_text()
    assert "float64[3]" in text
    manifest.write_text(text.replace('"step": 1', '"step": 2'))
    kept = [line for line in sums.read_text().splitlines() if "manifest" not in line]
    sums.write_text("\n".join(kept) + "\n")
    with pytest.raises(checkpoints.CheckpointError, match="do not match their sha256"):
        checkpoints.restore(directory, tree)


def test_a_checkpoint_under_another_name_is_refused(directory):
    checkpoints.save(directory, 1, {"a": np.zeros(1)}, {}, keep=1)
    (directory / "1").rename(directory / "7")
    with pytest.raises(checkpoints.CheckpointError, match="checkpoint of step 1"):
        checkpoints.restore(directory, {"a": np.zeros(1)})


def test_when_none_is_whole_nothing_is_moved(directory):
    checkpoints.save(directory, 1, {"a": np.zeros(1)}, {}, keep=1)
    (directory / "1" / "SHA256SUMS").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="Expected a whole"):
        checkpoints.restore(directory, {"a": np.zeros(1)})
    assert os.listdir(directory) == ["1"]


@pytest.mark.parametrize(
    ("like", "named"),
    [
        ({"a": np.zeros(3)}, r"leaf \['a'\] is float64\[3\], got float64\[2\]"),
        ({"a": np.zeros(2, np.float32)}, r"is float32\[2\], got float64\[2\]"),
        ({"b": np.zeros(2)}, r"leaf \['b'\] is float64\[2\], got None"),
        ({"a": np.zeros(2), "b": np.zeros(1)}, r"leaf \['b'\]"),
    ],
)
def test_other_leaves_than_asked_for_are_refused_by_name(directory, like, named):
    checkpoints.save(directory, 1, {"a": np.zeros(2)}, {}, keep=1)
    with pytest.raises(checkpoints.CheckpointError, match=named):
        checkpoints.restore(directory, like)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="every=0"):
        checkpoints.Checkpointing(every=0)
    with pytest.raises(ValueError, match="keep=0"):
        checkpoints.Checkpointing(keep=0)


# Full disks. Orbax logs the failure of its threads; that is not what is looked at.


def check_full(directory, big):
    small = {"a": np.arange(4.0)}
    checkpoints.save(directory, 1, small, {}, keep=1)
    with pytest.raises(checkpoints.CheckpointError, match="Expected to write a check"):
        checkpoints.save(directory, 2, big, {}, keep=1)
    # A thread of Orbax may end later and leave its remnant, under its own name.
    names = [name for name in os.listdir(directory) if storage.UNFINISHED not in name]
    assert names == ["1"]
    assert checkpoints.restore(directory, small).step == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("is_announced", [True, False])
def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, is_announced):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        if not is_announced:
            monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
        noise = np.random.default_rng(0).normal(size=1 << 18)
        check_full(disk / "checkpoints", {"a": noise})
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_without_room_is_refused_where_space_cannot_be_reserved(
    directory, monkeypatch
):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    usage = types.SimpleNamespace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_full(directory, {"a": np.zeros(1 << 18)})


@pytest.mark.parametrize("writer", ["checkpointer", "sums", "rename"])
def test_a_write_that_fails_midway_leaves_the_checkpoint_before(
    directory, monkeypatch, writer
):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    checkpoints.save(directory, 1, {"a": np.zeros(1)}, {}, keep=1)
    with monkeypatch.context() as patch:
        if writer == "checkpointer":
            patch.setattr(storage.orbax.Checkpointer, "save", fail)
        elif writer == "sums":
            patch.setattr(pathlib.Path, "write_text", fail)
        else:
            patch.setattr(pathlib.Path, "rename", fail)
        with pytest.raises(checkpoints.CheckpointError, match="No space left"):
            checkpoints.save(directory, 2, {"a": np.ones(1)}, {}, keep=1)
    assert os.listdir(directory) == ["1"]
    checkpoints.save(directory, 2, {"a": np.ones(1)}, {}, keep=1)
    assert os.listdir(directory) == ["2"]


WRITER = """
import pathlib, sys
import numpy as np
from dpjax.training import checkpoints
for step in range(1, 10_000):
    tree = {"a": np.full(200_000, float(step)), "step": np.array(step)}
    checkpoints.save(pathlib.Path(sys.argv[1]), step, tree, {"step": step}, keep=2)
    print(step, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_whole_checkpoints(tmp_path):
    like = {"a": np.zeros(200_000), "step": np.array(0)}
    directory = tmp_path / "checkpoints"
    remnants = 0
    for attempt in range(10):
        command = [sys.executable, "-c", WRITER, str(directory)]
        root = pathlib.Path(checkpoints.__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
            said = int(process.stdout.readline())
            time.sleep(0.013 + 0.029 * attempt)
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split()
        said = int(rest[-1]) if rest else said
        remnants += any(storage.UNFINISHED in name for name in os.listdir(directory))
        found = checkpoints.restore(directory, like)
        assert found.step in (said, said + 1)
        assert found.refused == ()
        assert found.record == {"step": found.step}
        np.testing.assert_array_equal(found.tree["a"], found.step)
        shutil.rmtree(directory)
        if remnants and attempt:
            break
    assert remnants, "no attempt hit a checkpoint being written"
