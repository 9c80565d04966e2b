"""metrics.jsonl and the small files of a run folder."""

import errno
import hashlib
import json
import os
import stat

import numpy as np
import pytest

from dpjax import _files
from dpjax.training import metrics


def record(mask, loss, norms):
    return metrics.ChunkRecord(
        np.array(mask, bool),
        None if loss is None else np.array(loss, np.float32),
        None if norms is None else np.array(norms, np.float32),
    )


def test_padding_is_left_out_and_chunks_are_taken_together():
    norms = np.arange(1.0, 12.0) / 4  # the quantile q lies at 0.25 + 2.5 q
    records = [
        record([1] * 6 + [0], [1.0] * 6 + [99.0], [*norms[:6], 99.0]),
        record([1] * 5 + [0], [6.5] * 5 + [99.0], [*norms[6:], 99.0]),
    ]
    found = metrics.not_private(records, 1.0, 0)
    assert found["train_loss"] == 3.5
    assert found["batch_size"] == 11
    assert found["fraction_clipped"] == pytest.approx(7 / 11)
    expected = {str(q): 0.25 + 2.5 * q for q in metrics.QUANTILES}
    assert found["grad_norm_quantiles"] == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_nothing_is_told_that_is_one_examples_own(count):
    values = np.random.default_rng(count).normal(size=(2, count)) ** 2
    found = metrics.not_private([record([1] * count, *values)], 1.0, 0)
    assert found["grad_norm_quantiles"] == {}
    assert (found["train_loss"] is None) == (count == 1)
    assert (found["fraction_clipped"] is None) == (count == 1)
    told = set(np.float32(v) for v in found.values() if isinstance(v, float))
    assert not told & set(values.astype(np.float32).ravel().tolist())


def test_an_empty_draw_has_no_mean():
    found = metrics.not_private([record([0, 0], [9, 9], [9, 9])], 1.0, 0)
    assert found == {
        "train_loss": None,
        "batch_size": 0,
        "non_finite_examples": 0,
        "fraction_clipped": None,
        "grad_norm_quantiles": {},
    }


def test_a_loss_that_is_not_finite_shows():
    records = [record([1, 1], [np.nan, 1.0], [np.inf, 1.0])]
    found = json.loads(_files.encode(metrics.not_private(records, 1.0, 1)))
    assert found["train_loss"] == "nan"
    assert found["non_finite_examples"] == 1
    assert found["fraction_clipped"] == 0.5


def test_norms_and_their_clipped_share_may_be_unknown():
    without = metrics.not_private([record([1], [1.0], None)], None, 0)
    assert (without["fraction_clipped"], without["grad_norm_quantiles"]) == (None, {})
    many = record([1] * 10, [1.0] * 10, [2.0] * 10)
    per_layer = metrics.not_private([many], {"a": 1.0}, 0)
    assert per_layer["fraction_clipped"] is None
    assert per_layer["grad_norm_quantiles"]["0.5"] == 2.0


def test_json_has_words_for_what_is_not_finite():
    value = {"a": [np.inf, -np.inf, np.nan], "b": (np.float32(0.5), np.int64(3))}
    text = _files.encode(value)
    assert json.loads(text) == {"a": ["inf", "-inf", "nan"], "b": [0.5, 3]}
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    with pytest.raises(TypeError, match="Expected a value that JSON can hold"):
        _files.encode({"a": object()})


@pytest.fixture
def lines(tmp_path):
    return metrics.Lines(tmp_path / "metrics.jsonl")


def test_what_was_written_after_the_mark_is_cut(tmp_path, lines):
    path = tmp_path / "metrics.jsonl"
    lines.add({"step": 1})
    mark = lines.mark
    _files.append(path, b'{"step": 2}\n{"st')
    assert metrics.cut(path, mark) == b'{"step": 1}\n'
    assert path.read_bytes() == b'{"step": 1}\n'
    metrics.cut(path, mark)
    assert path.read_bytes() == b'{"step": 1}\n'
    metrics.cut(path, metrics.EMPTY)
    assert path.read_bytes() == b""


def test_the_mark_of_a_missing_file_is_that_of_an_empty_one(tmp_path, lines):
    path = tmp_path / "metrics.jsonl"
    assert lines.mark == metrics.EMPTY
    assert lines.all() == []
    metrics.cut(path, metrics.EMPTY)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [b"", b'{"step": 1', b'{"step": 7}\n'])
def test_lines_that_are_lost_or_altered_are_refused(tmp_path, content, lines):
    path = tmp_path / "metrics.jsonl"
    lines.add({"step": 1})
    path.write_bytes(content)
    with pytest.raises(metrics.MetricsError, match=r"Expected the first 12 bytes"):
        metrics.cut(path, lines.mark)
    assert path.read_bytes() == content


def test_lines_have_the_hash_of_their_file_also_when_they_are_taken_up(tmp_path, lines):
    path = tmp_path / "metrics.jsonl"
    lines.add({"step": 1})
    mark = lines.mark
    lines.add({"step": 2})
    again = metrics.Lines(path)
    again.go_on(mark)
    assert (again.last, again.all()) == ({"step": 1}, [{"step": 1}])
    again.add({"step": 2, "loss": float("nan")})
    assert again.last == {"step": 2, "loss": "nan"}
    assert again.mark.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert again.mark.size == path.stat().st_size


def test_without_a_file_lines_stay_in_memory_with_the_same_hash(tmp_path, lines):
    kept = metrics.Lines(None)
    for number in range(3):
        assert kept.add({"step": number}) == lines.add({"step": number})
    assert kept.mark == lines.mark
    assert kept.all() == lines.all()


def test_files_are_closed_to_other_users(tmp_path):
    _files.replace(tmp_path / "a", b"x")
    _files.append(tmp_path / "b", b"x")
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    _files.replace(path, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(_files.WriteError, match=r"No space left on device.*config"):
        _files.replace(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_line_that_cannot_be_written_is_a_typed_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(_files.WriteError, match="Expected to write a file"):
        _files.append(tmp_path / "metrics.jsonl", b"x\n")
