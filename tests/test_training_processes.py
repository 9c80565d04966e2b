"""fit in several processes of jax.distributed, on loopback with Gloo collectives."""

import collections
import json
import re

import numpy as np
import process_worker
import pytest
import spread_runs

from dpjax.training import feeding, processes
from dpjax.training.placement import SINGLE

FEW_ROUNDINGS = 1e-5
"""Float32 sums over processes in another order, through five steps."""


@pytest.fixture(scope="module")
def one():
    """The run of each case in one process, on one device."""
    runs = {}

    def run(name):
        if name not in runs:
            runs[name] = spread_runs.run(name, spread_runs.one_device())
        return runs[name]

    return run


def reports(num, folder, *arguments, code=0, devices=1):
    """Run a task in some processes; return what each of them wrote down."""
    ended = process_worker.started(num, folder, *arguments, devices=devices)
    assert [status for _, status in ended] == [code] * num, ended
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(num)]


def numbers(folder, index):
    with np.load(folder / f"{index}.npz") as found:
        return dict(found)


def check_same_run(folder, found, expected, num_devices):
    """Check that every process has the run that one device gives."""
    wanted = spread_runs.numbers(expected)
    for index, report in enumerate(found):
        assert report["exact"] == json.loads(json.dumps(spread_runs.exact(expected)))
        assert report["devices"] == num_devices
        assert spread_runs.error(wanted, numbers(folder, index)) < FEW_ROUNDINGS
    for name, array in numbers(folder, 0).items():
        for index in range(1, len(found)):
            np.testing.assert_array_equal(array, numbers(folder, index)[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num", "devices", "name", "kind"),
    [
        (2, 1, "chunks, random loss", "split to the smallest"),
        (2, 1, "correlated", "whole"),
        (2, 2, "clip norm that adapts", "split"),
        (4, 1, "dpsgd", "whole"),
        (4, 1, "bfloat16", "split"),
    ],
)
def test_processes_give_the_numbers_of_one(tmp_path, one, num, devices, name, kind):
    found = reports(num, tmp_path, "run", name, kind, devices=devices)
    check_same_run(tmp_path, found, one(name), num * devices)


@pytest.mark.slow
def test_each_process_reads_the_rows_of_its_own_devices(tmp_path):
    found = reports(2, tmp_path, "run", "dpsgd", "whole")
    drawn = collections.Counter()
    plan = spread_runs.DPSGD
    half = feeding.num_rows(SINGLE, plan.chunk_size, None) // 2
    for chunks in plan.batches(11):
        for indices, _ in chunks:
            drawn.update(indices.tolist())
    read = [collections.Counter(report["read"]) for report in found]
    assert read[0] + read[1] == drawn
    assert [counts.total() % half for counts in read] == [0, 0]
    assert read[0] != read[1]


@pytest.mark.slow
def test_one_process_has_the_folder_and_one_draw_is_the_key_of_all(tmp_path):
    found = reports(2, tmp_path, "fresh key", "dpsgd", "split")
    assert [report["has_folder"] for report in found] == [True, False]
    assert not (tmp_path / "run-1").exists()
    assert (tmp_path / "run-0" / "summary.json").exists()
    for name, array in numbers(tmp_path, 0).items():
        np.testing.assert_array_equal(array, numbers(tmp_path, 1)[name])


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_at_one_step_and_they_go_on(tmp_path, one):
    found = reports(2, tmp_path, "interrupted", "dpsgd", "split", code=143)
    assert [report["error"] for report in found] == ["Interrupted: 143"] * 2
    (saved,) = (tmp_path / "run-0" / "checkpoints").iterdir()
    assert int(saved.name) < 5
    found = reports(2, tmp_path, "resumed", "dpsgd", "split")
    check_same_run(tmp_path, found, one("dpsgd"), 2)
    straight = tmp_path / "straight"
    straight.mkdir()
    reports(2, straight, "run", "dpsgd", "split")
    for name, array in numbers(straight, 0).items():
        np.testing.assert_array_equal(array, numbers(tmp_path, 0)[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "messages"),
    [
        ("other data", ["got other data"] * 2),
        ("no folder to resume", ["a folder with a run", r"failed=\[0\]"]),
    ],
)
def test_what_one_process_refuses_ends_all(tmp_path, task, messages):
    found = reports(2, tmp_path, task, "dpsgd", "whole", code=1)
    for report, message in zip(found, messages, strict=True):
        assert re.search(message, report["error"])


# With one process there is nothing to agree on.


def test_one_process_decides_alone():
    assert processes.is_first()
    assert processes.from_first(lambda: {"a": [1]}) == {"a": [1]}
    assert processes.Signals().seen(15) == 15
    assert processes.Signals().seen(None) is None
    tree = {"w": np.zeros(3)}
    assert processes.same_tree(tree) is tree
    processes.check_same(data="x")
    with pytest.raises(KeyError), processes.together():
        raise KeyError
