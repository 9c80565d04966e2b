"""A long run: memory stays where it is, and nothing is compiled again."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dpjax.training import metrics, storage

SCRIPT = pathlib.Path(__file__).parent / "benchmarks" / "long_run.py"
needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax")


def test_lines_of_a_run_folder_are_not_kept_in_memory(tmp_path):
    lines = metrics.Lines(tmp_path / "metrics.jsonl")
    for step in range(200):
        lines.add({"step": step, "text": "x" * 1000})
    held = [value for value in vars(lines).values() if isinstance(value, list)]
    assert held == [[]]
    assert [line["step"] for line in lines.all()] == list(range(200))


def test_a_mark_reads_no_file(tmp_path):
    lines = metrics.Lines(tmp_path / "metrics.jsonl")
    lines.add({"step": 1})
    before = lines.mark
    (tmp_path / "metrics.jsonl").unlink()
    assert lines.mark == before


def long_run(*arguments):
    root = SCRIPT.parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_orbax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "log_every", "checkpoint_every"),
    [(100_000, 100, 1000), (20_000, 10, 50)],
    ids=["long", "with many lines and checkpoints"],
)
def test_memory_is_flat_and_nothing_is_compiled_again(
    record_property, steps, log_every, checkpoint_every
):
    found = long_run(
        f"--steps={steps}",
        f"--log_every={log_every}",
        f"--checkpoint_every={checkpoint_every}",
    )
    record_property("measured", found)
    print(found)
    assert found["lines"] == steps // log_every
    # Of the loss and of its gradient, or a few more; not one a step.
    assert found["traces"] <= 10
    # The sum of two chunks is first needed when a draw is larger than one.
    assert found["compilations_after_warming"] <= 1
    assert found["growth_megabytes"] < 0.02 * np.median(found["megabytes"])
