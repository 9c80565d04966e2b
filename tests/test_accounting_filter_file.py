"""One budget in a file: of several programs exactly those get some that it is for."""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading

import dp_accounting
import pytest

from dpjax import _files
from dpjax.accounting import Budget, BudgetExceeded, LedgerError
from dpjax.accounting.events import Relation
from dpjax.accounting.ledgers import filter_file
from dpjax.accounting.ledgers.filter_file import FilterFile
from dpjax.accounting.ledgers.filters import ConcentratedFilter, GaussianFilter
from dpjax.accounting.ledgers.renyi_filter import RenyiFilter

GAUSSIAN = dp_accounting.GaussianDpEvent
BUDGET = Budget(epsilon=3.0, delta=1e-5)
HALF = GAUSSIAN(1.8)
"""More than half of the budget."""


def opened(path, make=RenyiFilter, budget=BUDGET, **options):
    return FilterFile(path / "budget.json", make(budget, **options))


@pytest.mark.parametrize("make", [RenyiFilter, ConcentratedFilter, GaussianFilter])
def test_what_one_program_spends_another_finds_spent(tmp_path, make):
    assert not opened(tmp_path, make).entries
    assert os.listdir(tmp_path) == []  # to look writes nothing
    assert opened(tmp_path, make).admits(HALF)
    opened(tmp_path, make).spend(HALF, "one")
    assert [entry.label for entry in opened(tmp_path, make).entries] == ["one"]
    assert not opened(tmp_path, make).admits(HALF)
    assert opened(tmp_path, make).admits(GAUSSIAN(20.0))
    assert type(opened(tmp_path, make).snapshot()) is make
    assert (opened(tmp_path).budget, opened(tmp_path).relation) == (
        BUDGET,
        Relation.ADD_OR_REMOVE_ONE,
    )


def test_what_is_refused_leaves_the_file_as_it_was(tmp_path):
    shared = opened(tmp_path)
    with pytest.raises(BudgetExceeded, match="'bare'"):
        shared.spend(dp_accounting.NonPrivateDpEvent(), "bare")
    assert not shared.path.exists()
    shared.spend(HALF, "one")
    before = shared.path.read_bytes(), shared.path.stat().st_mtime_ns
    for event, label, error in (
        (HALF, "two", BudgetExceeded),
        (GAUSSIAN(90.0), "one", ValueError),
        (GAUSSIAN(90.0), " ", ValueError),
        (GAUSSIAN(-1.0), "two", ValueError),
        (None, "two", TypeError),
    ):
        with pytest.raises(error):
            shared.spend(event, label)
    assert before == (shared.path.read_bytes(), shared.path.stat().st_mtime_ns)
    shared.spend(GAUSSIAN(90.0), "two")


def test_a_snapshot_spends_nothing_of_the_file(tmp_path):
    shared = opened(tmp_path)
    for _ in range(2):  # without a file, and with one
        shared.snapshot().spend(HALF, "tried")
        assert shared.admits(HALF)
        shared.spend(GAUSSIAN(50.0), f"really {len(shared.entries)}")


def test_file_and_folder_are_their_owners_alone(tmp_path):
    shared = FilterFile(tmp_path / "new" / "budget.json", RenyiFilter(BUDGET))
    shared.spend(HALF, "one")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (shared.path.parent, shared.path)]
    assert modes == [0o700, 0o600]
    names = sorted(os.listdir(shared.path.parent))
    assert names == ["budget.json", "budget.json.lock"]


# What would give budget back.


def test_a_link_leads_to_the_one_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "budget.json").symlink_to(tmp_path / "real" / "budget.json")
    opened(tmp_path).spend(HALF, "by the link, before there is a file")
    assert not opened(tmp_path / "real").admits(HALF)
    opened(tmp_path).spend(GAUSSIAN(30.0), "by the link")
    assert len(opened(tmp_path / "real").entries) == 2
    assert (tmp_path / "budget.json").is_symlink()


def test_a_file_of_two_names_is_refused(tmp_path):
    opened(tmp_path).spend(HALF, "one")
    os.link(tmp_path / "budget.json", tmp_path / "other.json")
    with pytest.raises(LedgerError, match="a file of one name"):
        opened(tmp_path).spend(GAUSSIAN(50.0), "two")


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = FilterFile("budget.json", RenyiFilter(BUDGET))
    monkeypatch.chdir("/")
    shared.spend(HALF, "one")
    assert (tmp_path / "budget.json").exists()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"make": GaussianFilter}, "a GaussianFilter, got kind='RenyiFilter'"),
        ({"budget": Budget(4.0, 1e-5)}, r"epsilon=4.0.*\(it has .*epsilon=3.0"),
        ({"budget": Budget(3.0, 1e-6)}, r"delta=1e-06.*\(it has .*delta=1e-05"),
        ({"relation": Relation.REPLACE_ONE}, "under REPLACE_ONE.*ADD_OR_REMOVE_ONE"),
    ],
)
def test_a_file_of_other_terms_is_refused(tmp_path, other, named):
    opened(tmp_path).spend(HALF, "one")
    before = (tmp_path / "budget.json").read_bytes()
    for call in (
        lambda shared: shared.spend(GAUSSIAN(50.0), "two"),
        lambda shared: shared.admits(GAUSSIAN(50.0)),
        lambda shared: shared.entries,
    ):
        with pytest.raises(LedgerError, match=named):
            call(opened(tmp_path, **other))
    assert (tmp_path / "budget.json").read_bytes() == before


def test_the_orders_are_those_of_the_file(tmp_path):
    opened(tmp_path, orders=[7.0]).spend(GAUSSIAN(20.0), "one")
    opened(tmp_path).spend(GAUSSIAN(20.0), "two")
    assert opened(tmp_path).snapshot().orders == (7.0,)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "other"}', b"\xff"])
def test_a_torn_or_foreign_file_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "budget.json").write_bytes(content)
    with pytest.raises(LedgerError, match=r"got path='.*budget\.json'"):
        opened(tmp_path).spend(HALF, "one")
    assert (tmp_path / "budget.json").read_bytes() == content


def test_an_edited_file_is_refused(tmp_path):
    opened(tmp_path).spend(HALF, "one")
    document = json.loads((tmp_path / "budget.json").read_text())
    document["entries"][0]["event"]["noise_multiplier"] = 22.0
    (tmp_path / "budget.json").write_text(json.dumps(document))
    with pytest.raises(LedgerError, match="entry 1"):
        opened(tmp_path).admits(HALF)


def test_what_cannot_be_read_or_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "budget.json").mkdir()
    with pytest.raises(LedgerError, match="can be read"):
        opened(tmp_path).admits(HALF)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="can be read"):
        opened(tmp_path / "file").admits(HALF)
    with pytest.raises(_files.WriteError, match="written and locked"):
        opened(tmp_path / "file").spend(HALF, "one")


def test_without_locks_nothing_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(filter_file, "fcntl", None)
    with pytest.raises(_files.WriteError, match="has no locks"):
        opened(tmp_path).spend(HALF, "one")
    assert os.listdir(tmp_path) == []


def test_the_file_begins_with_a_filter_on_which_nothing_was_spent(tmp_path):
    used = RenyiFilter(BUDGET)
    used.spend(HALF, "one")
    with pytest.raises(ValueError, match="nothing was spent"):
        FilterFile(tmp_path / "budget.json", used)
    with pytest.raises(TypeError, match="PrivacyFilter"):
        FilterFile(tmp_path / "budget.json", BUDGET)


# Programs at the same time.


def test_of_many_threads_exactly_one_gets_the_rest(tmp_path):
    ready, came_of_it = threading.Barrier(8), []

    def try_it(number):
        ready.wait()
        try:
            opened(tmp_path).spend(HALF, f"thread {number}")
            came_of_it.append(number)
        except BudgetExceeded:
            came_of_it.append(None)

    threads = [threading.Thread(target=try_it, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(came_of_it) == 8
    [winner] = [number for number in came_of_it if number is not None]
    assert [e.label for e in opened(tmp_path).entries] == [f"thread {winner}"]


PROGRAM = """
import sys
import dp_accounting
from dpjax.accounting import BudgetExceeded, FilterFile, RenyiFilter
path, who = sys.argv[1:]
shared = FilterFile(path, RenyiFilter((3.0, 1e-5)))
print("ready", flush=True)
sys.stdin.readline()
got = 0
for number in range(20):
    try:
        shared.spend(dp_accounting.GaussianDpEvent(8.0), f"{who} {number}")
        got += 1
    except BudgetExceeded:
        pass
print(got)
"""


def started(path, who, program=PROGRAM):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path / "budget.json"), who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
    )


def ended(processes):
    """Let all begin when all are ready; return what each printed."""
    assert [process.stdout.readline() for process in processes] == (
        ["ready\n"] * len(processes)
    )
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=240)[0] for process in processes]


def test_a_lock_that_was_deleted_is_no_lock(tmp_path, monkeypatch):
    budget = FilterFile(tmp_path / "budget.json", RenyiFilter((3.0, 1e-5)))
    lock, opened, delete = tmp_path / "budget.json.lock", [], [True, False]
    flock = filter_file.fcntl.flock

    def deleted_while_waiting(handle, operation):
        opened.append(handle)
        flock(handle, operation)
        if delete.pop(0):
            lock.unlink()

    monkeypatch.setattr(filter_file.fcntl, "flock", deleted_while_waiting)
    budget.spend(dp_accounting.GaussianDpEvent(4.0), "a look")
    assert len(opened) == 2
    assert lock.exists()


def test_processes_together_get_what_one_alone_would(tmp_path):
    alone = RenyiFilter(BUDGET)
    while alone.admits(GAUSSIAN(8.0)):
        alone.spend(GAUSSIAN(8.0), "step")
    processes = [started(tmp_path, str(number)) for number in range(2)]
    got = [int(said) for said in ended(processes)]
    assert sum(got) == len(alone.entries)
    labels = [entry.label for entry in opened(tmp_path).entries]
    assert [sum(x.startswith(f"{n} ") for x in labels) for n in range(2)] == got


DYING = PROGRAM.replace(
    "got = 0",
    """
import os, pathlib, signal
from dpjax import _files
real, where = os.replace, who
def dying(*arguments):
    if where == "after":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
got = 0
""",
)


@pytest.mark.parametrize(
    ("where", "count"),
    [pytest.param("before", 0, marks=pytest.mark.slow), ("after", 1)],
)
def test_a_program_that_is_killed_leaves_a_whole_file_and_no_lock(
    tmp_path, where, count
):
    process = started(tmp_path, where, DYING)
    ended([process])
    assert process.returncode == -signal.SIGKILL
    assert len(opened(tmp_path).entries) == count
    opened(tmp_path).spend(GAUSSIAN(8.0), "the next one")
    assert len(opened(tmp_path).entries) == count + 1
