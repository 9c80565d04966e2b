"""The benchmark of curvature runs, and README shows what it measured."""

import json
import pathlib
import sys

import pytest
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import command
import curvature_costs as benchmark
import curvature_tables
import table


def parsed(*arguments):
    flag_values = flags.FlagValues()
    benchmark.define_flags(flag_values)
    flag_values(["curvature", *arguments])
    return flag_values


@pytest.fixture(scope="module")
def run():
    return benchmark.measure(
        parsed("--quick", "--rounds=1", "--parts=gradients,spectrum,tour")
    )


def assert_is_a_run(run):
    assert run["settings"].keys() == {"rounds", "quick"}
    for row in run["gradients"]:
        assert row["ratio"].keys() == {"hvp", "lanczos", "trace", "probe"}
        assert all(value > 0 for value in row["ratio"].values())
    assert run["tour"].keys() == {"with jit", "without jit", "ratio"}


@pytest.mark.slow
def test_command_measures_every_model_and_says_it_in_a_table(run):
    assert_is_a_run(json.loads(json.dumps(run)))
    text = curvature_tables.render(run)
    assert "these numbers measure nothing" in text
    assert "main job's CNN | 26,010 | 2 |" in text
    assert "2 probes of 3 steps" in text


@pytest.mark.slow
def test_further_products_take_at_most_twice_the_operations_of_a_gradient(run):
    for row in run["gradients"]:
        # Two passes more for each of the gradient's; elementwise work is on top.
        assert row["operations"]["further"] < 2.2
        assert row["operations"]["further"] < row["operations"]["first"]


@pytest.mark.slow
def test_tables_are_written(run, tmp_path):
    benchmark.COMMAND.write_out(run, tmp_path)
    assert (tmp_path / "table.md").read_text() == curvature_tables.render(run)
    assert json.loads((tmp_path / "results.json").read_text()) == run


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="got parts='nothing'"):
        benchmark.measure(parsed("--parts=nothing"))


def test_results_that_are_kept_are_measurements():
    kept = benchmark.COMMAND.read_results()
    if kept is None:
        pytest.skip("no results are kept")
    assert_is_a_run(kept)
    assert not kept["settings"]["quick"]
    assert all(row["operations"]["further"] <= 2 for row in kept["gradients"])


def test_readme_shows_the_results_that_are_kept():
    block = table.read_block(command.README.read_text(), curvature_tables.MARKS)
    if block is None:
        pytest.skip("README shows no benchmark of curvature")
    assert block == curvature_tables.render(benchmark.COMMAND.read_results())
