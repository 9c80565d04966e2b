"""The benchmark runs, compares like with like, and README shows what it measured."""

import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import clipping
import contestants
import counts
import keeping
import table
import timing
import workloads

ONE_OF_EACH = {spec.model: spec for spec in workloads.SPECS.values()}


def tiny(model):
    return workloads.build(model, ONE_OF_EACH[model].chosen(quick=True))


def parsed(*arguments):
    flag_values = flags.FlagValues()
    clipping.define_flags(flag_values)
    flag_values(["clipping", *arguments])
    return flag_values


@pytest.fixture(scope="module")
def run():
    chosen = "--contestants=vmap,optax,opacus_ghost"
    models = "--models=embedding_bag,gpt2_small"
    return clipping.measure(parsed("--quick", "--rounds=2", models, chosen))


# What is compared.


@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_batch_loss_is_the_mean_of_the_losses_of_its_examples(model):
    work = tiny(model)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(*args):
        return work.loss(*args), jax.vmap(work.loss, (None, 0, 0))(*args).mean()

    # Float32 means in another order: a few ulps.
    np.testing.assert_allclose(*both(work.params, *work.batch), rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", "bookkeeping", "optax", "jax_privacy"])
def test_contestants_compute_the_same_clipped_sum(name):
    if why := contestants.missing(name):
        pytest.skip(why)
    work = tiny("embedding_bag")
    found, expected = (
        jax.jit(contestants.CONTESTANTS[one](work.loss))(work.params, *work.batch)
        for one in (name, "vmap")
    )
    found = getattr(found, "sum", found)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found,
        expected.sum,
    )


def test_multilayer_perceptron_has_the_size_that_was_announced():
    sizes = workloads.SPECS["mlp_256"].sizes
    weights = 784 * 1024 + 2 * 1024**2 + 1024 * 10
    biases = 3 * 1024 + 10
    assert workloads.build("mlp", sizes | {"batch": 1}).num_params == weights + biases


# How it is timed.


def test_each_round_runs_each_contestant_once():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.side_by_side(calls, 3, turn=0.0)
    assert order == list("abc") * 4  # one round more, which only looks how long
    assert {name: len(values) for name, values in times.items()} == dict(a=3, b=3, c=3)


def test_contestant_out_of_budget_sits_out_but_the_first_never_does():
    calls = {"plain": lambda: None, "slow": lambda: None}
    times = timing.side_by_side(calls, 3, turn=0.0, budget=0.0)
    assert [len(values) for values in times.values()] == [3, 1]


def test_ratio_is_the_median_over_rounds_not_of_medians():
    # Ratios 2, 1, 3 have the median 2; the medians 4 and 3 have the ratio 4/3.
    assert timing.median_ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0]) == 2.0


def test_counts_are_those_of_products_and_sums_with_loops_at_full_length():
    def fn(w, x):
        def step(carry, row):
            return carry + row @ w, None

        return jax.lax.cond(
            x[0, 0] > 0,
            lambda: jax.lax.scan(step, jnp.zeros(4), x)[0],
            lambda: jnp.tile(x @ w, (7, 1)).sum(0),
        )

    jaxpr = jax.make_jaxpr(fn)(jnp.zeros((3, 4)), jnp.zeros((5, 3))).jaxpr
    branches = [2 * 5 * 3 * 4 + 5 * 4, 2 * 5 * 3 * 4 + 7 * 5 * 4]
    comparison = 1
    assert counts.operations(jaxpr) == comparison + min(branches)
    assert counts.bytes_moved(jaxpr) == 4 * 5 * (3 + 12 + 4)


def fake_run(rows, contestants, versions):
    machine = {"chip": "c", "cores": 2, "python": "3", "versions": versions}
    gradients = [
        {"workload": row, "title": row, "batch": 1, "contestants": dict(values)}
        for row, values in rows.items()
    ]
    settings = {"contestants": contestants}
    parts = {"gradients": gradients, "steps": [], "scaling": []}
    return {"machine": machine, "settings": settings, **parts}


def test_rows_and_contestants_measured_anew_replace_those_that_are_kept():
    both = {"a": {"plain": 1, "vmap": 9}, "b": {"plain": 1, "vmap": 7}}
    before = fake_run(both, ["plain", "vmap"], {"jax": "1", "torch": "2"})
    run = fake_run({"b": {"plain": 2, "auto": 3}}, ["plain", "auto"], {"jax": "1"})
    found = keeping.brought_together(before, run, clipping.EVERYONE)
    assert [row["contestants"] for row in found["gradients"]] == [
        {"plain": 1, "vmap": 9},
        {"plain": 2, "auto": 3, "vmap": 7},
    ]
    assert found["settings"]["contestants"] == ["plain", "auto", "vmap"]
    assert found["machine"]["versions"] == {"jax": "1", "torch": "2"}
    run["machine"]["versions"] = {"jax": "2"}
    assert keeping.brought_together(before, run, clipping.EVERYONE) == run


# What comes out.


NUMBER = (int, float)
ENTRY = {
    "round_ms": list,
    "ms": NUMBER,
    "ratio": NUMBER,
}
PROGRAM = ENTRY | {
    "temp_bytes": int,
    "temp_ratio": NUMBER,
    "compile_seconds": NUMBER,
    "compile_ratio": NUMBER,
    "operations": int,
    "operations_ratio": NUMBER,
    "bytes_moved": int,
    "bytes_ratio": NUMBER,
}
GRADIENTS = {
    "workload": str,
    "title": str,
    "model": str,
    "sizes": dict,
    "params": int,
    "batch": int,
    "contestants": dict,
}
STEPS = {
    "workload": str,
    "title": str,
    "batch": int,
    "params": int,
    "plain_ms": NUMBER,
    "private_ms": NUMBER,
    "ratio": NUMBER,
    "plain_ns_per_param": NUMBER,
    "noise_ns_per_value": NUMBER,
}
SCALING = {"title": str, "along": str, "values": list, "ms": dict, "exponent": dict}
MACHINE = {"backend": str, "chip": str, "cores": int, "python": str, "versions": dict}
"""And no more: what names a machine does not belong into the results."""


def assert_holds(value, schema):
    for field, kind in schema.items():
        assert isinstance(value[field], kind), field


def assert_is_a_run(run):
    assert_holds(run["machine"], MACHINE)
    assert run["machine"].keys() == MACHINE.keys()
    assert_holds(run["settings"], {"rounds": int, "quick": bool, "contestants": list})
    for row in run["gradients"]:
        assert_holds(row, GRADIENTS)
        for name, entry in row["contestants"].items():
            if "dropped" not in entry:
                peer = name in contestants.OPACUS
                assert_holds(entry, ENTRY if peer else PROGRAM)
    for row in run["steps"]:
        assert_holds(row, {"dropped": str} if "dropped" in row else STEPS)
    for row in run["scaling"]:
        assert_holds(row, SCALING)


@pytest.mark.slow
def test_results_are_of_one_form(run):
    assert_is_a_run(json.loads(json.dumps(run)))


def test_results_that_are_kept_are_measurements_of_that_form():
    for kept in clipping.read_results():
        assert_is_a_run(kept)
        assert not kept["settings"]["quick"]


@pytest.mark.slow
def test_command_measures_each_table_and_says_what_it_leaves_out(run):
    (row,) = run["gradients"]
    assert list(row["contestants"]) == ["plain", "vmap", "optax"]
    assert [len(run[part]) for part in clipping.PARTS] == [1, 1, 1]
    assert run["skipped"] == ["GPT-2 small, T=1024: skipped, there is no GPU here."]
    assert "| not run |" in table.render([run])


@pytest.mark.slow
def test_trial_is_not_kept(run):
    with pytest.raises(ValueError, match="Expected a measurement"):
        clipping.kept_runs(run)


@pytest.mark.slow
def test_tables_and_picture_are_written(run, tmp_path):
    clipping.write_out([run], tmp_path)
    assert (tmp_path / "table.md").read_text() == table.render([run])
    assert json.loads((tmp_path / "results.json").read_text()) == {"runs": [run]}
    assert (tmp_path / "ratios_cpu.svg").read_text().count("vmap(grad)") == 1


@pytest.mark.slow
def test_contestant_that_was_dropped_is_explained_below_the_table(run):
    (row,) = run["gradients"]
    entry = {"dropped": "temporaries would take 99.0 GB, more than 12 GB"}
    without = row | {"contestants": row["contestants"] | {"vmap": entry}}
    text = table.render([run | {"gradients": [without]}])
    assert "- vmap(grad), embedding_bag: temporaries would take 99.0 GB" in text


@pytest.mark.parametrize("flag", ["models", "contestants", "parts"])
def test_unknown_names_are_refused(flag):
    with pytest.raises(ValueError, match=f"Expected any of .* got {flag}='nobody'"):
        clipping.measure(parsed(f"--{flag}=nobody"))


def test_block_is_replaced_and_the_rest_stays():
    text = f"before\n{table.START}\nold\n{table.END}\nafter\n"
    new = table.replace_block(text, "new\n")
    assert new == f"before\n{table.START}\nnew\n{table.END}\nafter\n"
    assert table.read_block(new) == "new\n"


@pytest.mark.parametrize(
    "text",
    ["none", table.START, table.END + table.START, (table.START + table.END) * 2],
)
def test_text_without_one_pair_of_marks_is_refused(text):
    with pytest.raises(ValueError, match="Expected one"):
        table.replace_block(text, "new\n")


def test_readme_shows_the_results_that_are_kept():
    block = table.read_block(clipping.README.read_text())
    if block is None:
        pytest.skip("README shows no benchmark")
    assert block == table.render(clipping.read_results())
