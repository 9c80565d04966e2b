"""Checkpoints torn or altered at any byte: refused, and the one before is taken."""

import hashlib
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from mutations import KINDS, mutated

from dpjax.training import checkpoints, fingerprint, storage

if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

TREE = {
    "params": {"w": jnp.arange(300.0), "half": jnp.ones(3, jnp.bfloat16)},
    "key_words": np.array([7, 9], np.uint32),
    "empty": np.zeros((0, 2)),
}
RECORD = {"metrics": {"size": 3}, "elapsed_seconds": 1.5}
PER_FILE = [3, pytest.param(500, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written") / "checkpoints"
    for step in (1, 2):
        checkpoints.save(directory, step, TREE, RECORD, keep=2)
    return directory


@pytest.fixture
def copied(written, tmp_path):
    shutil.copytree(written, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def files_of(path):
    return sorted(item for item in path.rglob("*") if item.is_file())


def same_content(path):
    """Tell whether a checkpoint is read, and is then what was written."""
    try:
        leaves, record = storage.read(path)
    except Exception:  # `restore` takes any of them for damage
        return None
    expected = fingerprint.host_leaves(TREE)
    return record == RECORD and [
        (name, leaf.dtype, leaf.tobytes()) for name, leaf in leaves.items()
    ] == [(name, leaf.dtype, leaf.tobytes()) for name, leaf in expected.items()]


@pytest.mark.parametrize("count", PER_FILE)
def test_any_damage_to_any_file_is_refused_or_changes_nothing(
    copied, count, record_property
):
    rng = np.random.default_rng(count)
    refused = tried = 0
    for file in files_of(copied / "2"):
        content = file.read_bytes()
        for _ in range(count):
            file.write_bytes(mutated(content, rng))
            found = same_content(copied / "2")
            assert found in (None, True), file
            refused += found is None
            tried += 1
        file.write_bytes(content)
    record_property("damaged files", tried)
    assert refused > 0.8 * tried  # an addition to SHA256SUMS may change nothing
    assert same_content(copied / "2")


def test_every_truncation_of_the_list_of_hashes_is_refused_or_harmless(copied):
    sums = copied / "2" / "SHA256SUMS"
    content = sums.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 25)):
        sums.write_bytes(content[:place])
        assert same_content(copied / "2") in (None, True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_before_is_taken(copied, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    files = [file for file in files_of(copied / "2") if file.name != "SHA256SUMS"]
    file = files[rng.integers(len(files))]
    file.write_bytes(mutated(file.read_bytes(), rng, kind))
    found = checkpoints.restore(copied, TREE)
    assert (found.step, len(found.refused)) == (1, 1)
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2.refused"]


def rehashed(path):
    """Make SHA256SUMS fit what is there, as somebody would who forges a checkpoint."""
    names = [file for file in files_of(path) if file.name != "SHA256SUMS"]
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(path)}"
        for file in names
    ]
    (path / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_damage_under_fitting_hashes_reaches_no_array(copied, count):
    rng = np.random.default_rng(count)
    path = copied / "2"
    for file in files_of(path):
        content = file.read_bytes()
        for _ in range(count if file.name != "SHA256SUMS" else 0):
            file.write_bytes(mutated(content, rng))
            rehashed(path)
            assert same_content(path) in (None, True), file
        file.write_bytes(content)
    rehashed(path)
    assert same_content(path)


@pytest.mark.parametrize("place", ["file", "folder", "link"])
def test_what_is_not_a_checkpoint_under_its_name_is_refused(copied, place):
    path = copied / "2"
    shutil.rmtree(path)
    if place == "file":
        path.write_bytes(b"2")  # no folder: no checkpoint
    elif place == "folder":
        path.mkdir()
    else:
        path.symlink_to(pathlib.Path("1"))  # another step's
    found = checkpoints.restore(copied, TREE)
    assert found.step == 1
