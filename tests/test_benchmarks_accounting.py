"""The benchmark of accountants runs, and README shows what it measured."""

import json
import math
import pathlib
import sys

import pytest
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import accounting
import accounting_client
import accounting_peers
import accounting_tables
import accounting_tasks
import accounting_worker
import table

CASE = accounting_tasks.cases()["typ-1.0-0.01-1000"]
QUESTION = {"segments": CASE["segments"], "delta": CASE["delta"]}


def parsed(*arguments):
    flag_values = flags.FlagValues()
    accounting.define_flags(flag_values)
    flag_values(["accounting", *arguments])
    return flag_values


# Who is asked.


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("exact", 0, 1e-9),
        ("pld", 0, 1e-3),
        ("rdp", 0, 0.2),
        ("library_pld", 0, 1e-2),
        ("library_rdp", 0, 0.2),
        ("prv", -1e-2, 1e-2),
    ],
)
def test_every_accountant_answers_about_the_same_run(name, low, high):
    if why := accounting_peers.missing(name):
        pytest.skip(why)
    tasks = accounting_peers.TASKS[name]()
    error = tasks["epsilon"](**QUESTION) / CASE["epsilon"] - 1
    assert low - 1e-9 <= error <= high
    ((noise, rate, steps),) = CASE["segments"]
    assert {"noise", "curve"} <= tasks.keys()
    curve = tasks["curve"](noise, rate, [steps // 2, steps], CASE["delta"])
    assert curve[0] < curve[1]
    assert low - 1e-6 <= curve[1] / CASE["epsilon"] - 1 <= high


def test_a_finer_grid_is_closer():
    epsilon = accounting_peers.TASKS["library_pld"]()["epsilon"]
    question = {"segments": [(2.0, 0.01, 10)], "delta": 1e-5}
    truth = accounting_peers.TASKS["exact"]()["epsilon"](**question)
    errors = [abs(epsilon(**question, fineness=n) - truth) for n in (0, 1)]
    assert errors[1] < 0.1 * errors[0]


def test_caches_are_empty_before_each_round():
    accounting_peers.TASKS["rdp"]()["epsilon"](**QUESTION)
    cached = sys.modules["dpjax.accounting.renyi.of_events"]._first_divergences
    assert cached.cache_info().currsize > 0
    accounting_peers.forget()
    assert cached.cache_info().currsize == 0


# How it is asked.


def asked(task, rounds=1, limit=60.0, before=lambda: None, **options):
    tasks = {"double": lambda x: 2 * x, "fail": fail, "spin": spin}
    question = {"task": task, "options": options, "rounds": rounds, "limit": limit}
    return accounting_worker.answer(tasks, question, before)


def fail():
    raise OverflowError("too much\nof it")


def spin():
    while True:
        try:
            sum(range(1000))
        except Exception:  # as a peer may do
            continue


def test_an_answer_has_a_value_and_a_time():
    rounds = []
    found = asked("double", rounds=3, before=lambda: rounds.append(1), x=21)
    assert found["value"] == 42
    assert found["seconds"] >= 0
    assert len(rounds) == 3


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("fail", {"error": "OverflowError: too much of it"}),
        ("nothing", {"error": "not offered"}),
        ("spin", {"late": 0.1}),
    ],
)
def test_what_gives_no_value_says_why(task, expected):
    assert asked(task, limit=0.1) == expected


SCRIPT = f"""
import os, sys, time
sys.path.insert(0, {str(accounting_client.HERE)!r})
import accounting_worker

def die():
    os._exit(3)

def talk():
    print("noise")
    return 1.0

tasks = {{"talk": talk, "die": die, "sleep": lambda: time.sleep(60)}}
accounting_worker.serve(tasks)
"""


def test_a_client_starts_again_after_a_crash_and_after_its_limit():
    command = [sys.executable, "-c", SCRIPT]
    with accounting_client.Client("stub", command, 2.0) as client:
        assert client.ask("talk")["value"] == 1.0
        assert client.ask("die") == {"error": "its process ended"}
        client.limit = 0.05
        assert client.ask("sleep") == {"late": 0.05}
        client.limit = 2.0
        assert client.ask("talk")["value"] == 1.0


def test_a_peer_is_behind_that_takes_longer_and_ahead_that_is_as_exact_sooner():
    class Stub:
        name = "peer"

        def __init__(self, *answers):
            self.answers = list(answers)

        def ask(self, task, **options):
            return self.answers.pop(0)

    def verdict(*answers):
        row = {**QUESTION, "epsilon": 1.0, "tolerance": 1e-9}
        exact = {"value": 1.0, "seconds": 1.0, "error": 0.0}
        first, *later = answers
        row["answers"] = {"exact": exact, "peer": first}
        return accounting_tasks._refine(Stub(*later), row)["verdict"]

    rough, good = {"value": 1.1, "seconds": 0.1}, {"value": 1.0, "seconds": 0.9}
    assert verdict(good) == "ahead"
    assert verdict(rough, good) == "ahead"
    assert verdict(rough, good | {"seconds": 1.1}) == "behind"
    assert verdict(rough | {"seconds": 1.1}) == "behind"
    assert verdict(rough, {"late": 3.0}) == "behind"
    assert verdict(rough, {"error": "MemoryError"}) == "behind"
    assert verdict({"late": 3.0}) == "behind"
    assert verdict({"error": "no such thing"}) == "unable"


@pytest.mark.parametrize("flag", ["accountants", "parts"])
def test_unknown_names_are_refused(flag):
    with pytest.raises(ValueError, match=f"Expected any of .* got {flag}='nobody'"):
        accounting.measure(parsed(f"--{flag}=nobody"))


# What comes out.


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (1e-12, "0"),
        (-1e-12, "0"),
        (-3e-6, "-3e-06"),
        (0.0114, "1.1 %"),
        (-0.02, "-2 %"),
        (0.346, "35 %"),
        (6.2, "7.2 times"),
        (-0.999, "-100 %"),
        (106.1, "107 times"),
        (math.inf, "infinite"),
    ],
)
def test_errors_are_shown_with_their_sign(error, text):
    assert accounting_tables.error_text({"error": error}, 1e-9) == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"value": 1.0, "seconds": 3.0}, "6.0"),
        ({"value": 1.0, "seconds": 0.1}, "0.2"),
        ({"value": 1.0, "seconds": 61.0}, "122"),
        ({"late": 60.0}, "> 60 s"),
        ({"error": "OverflowError"}, "-"),
    ],
)
def test_times_are_shown_in_units_of_ours(answer, text):
    assert accounting_tables.time_text(answer, 0.5) == text


@pytest.fixture(scope="module")
def run():
    return accounting.measure(parsed("--quick", "--rounds=1", "--accountants=rdp"))


def test_a_trial_has_every_table_and_says_what_it_is(run):
    text = accounting_tables.render(json.loads(json.dumps(run)))
    for words in ("A trial", "relative error", "Larger jobs", "saves in noise"):
        assert words in text
    (row, _) = run["epsilons"]
    assert row["answers"]["exact"]["error"] < 1e-9
    assert row["answers"]["rdp"]["error"] > 0.01


def test_it_is_written_into_a_folder(run, tmp_path):
    accounting.write_out(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == run
    text = (tmp_path / "out" / "table.md").read_text()
    assert text == accounting_tables.render(run)


def test_who_is_not_there_is_left_out_with_a_line():
    commands, skipped = accounting._commands(["opacus"], None)
    assert list(commands) == ["exact"]
    assert "Opacus RDP: left out, there is no --opacus_python." in skipped


def test_results_that_are_kept_are_a_measurement_of_everyone():
    kept = accounting.read_results()
    if kept is None:
        pytest.skip("no results are kept")
    assert not kept["settings"]["quick"]
    assert kept["machine"].keys() == {"chip", "versions"}
    assert len(kept["epsilons"]) == len(accounting_tasks.cases())
    assert kept["jobs"]
    assert len(kept["savings"]["noise"]) == 2


def test_readme_shows_the_results_that_are_kept():
    marks = accounting_tables.MARKS
    block = table.read_block(accounting.README.read_text(), marks)
    if block is None:
        pytest.skip("README shows no benchmark of accountants")
    assert block == accounting_tables.render(accounting.read_results())
