"""The command line, in this process and in one of its own."""

import json
import subprocess
import sys

import pytest
from absl import flags

from dpjax import accounting
from dpjax.accounting.commands import invocation, options

RUN = ["--noise_multiplier=1", "--sampling_prob=0.01", "--num_steps=1000"]
QUICK = [*RUN, "--delta=1e-5", "--accountant=rdp"]


def call(*words):
    flag_values = flags.FlagValues()
    options.define(flag_values)
    rest = invocation.parse(["accounting", *words], flag_values)
    invocation.main(rest, flag_values)


def told(capsys, *words):
    call(*words)
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def refused(capsys, *words):
    """Return the one line with which a command ends, and its status 2."""
    with pytest.raises(SystemExit) as ended:
        call(*words)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith("dpjax.accounting: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_command_prints_its_statement(capsys):
    assert "Epsilon at delta 1e-05:" in told(capsys, "epsilon", *QUICK)


def test_json_holds_all_digits(capsys):
    found = json.loads(told(capsys, "epsilon", *QUICK, "--json"))
    expected = accounting.rdp_epsilon(
        noise_multiplier=1.0, sampling_prob=0.01, num_steps=1000, delta=1e-5
    )
    assert found["epsilon"] == expected
    assert (found["command"], found["num_steps"]) == ("epsilon", 1000)


def test_json_has_a_word_for_infinity(capsys):
    words = ["--noise_multiplier=0", *QUICK[1:], "--json"]
    assert json.loads(told(capsys, "epsilon", *words))["epsilon"] == "inf"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_is_written(capsys, tmp_path, ending):
    path = tmp_path / f"curve.{ending}"
    told(capsys, "curve", *QUICK, "--points=3", f"--plot={path}")
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["curve", "curve.docx"])
def test_a_picture_of_no_known_format_is_refused(capsys, tmp_path, name):
    path = tmp_path / name
    assert "png" in refused(capsys, "curve", *QUICK, "--points=3", f"--plot={path}")
    assert not path.exists()


def test_a_picture_that_cannot_be_written_is_one_line(capsys, tmp_path):
    plot = f"--plot={tmp_path}/none/curve.png"
    words = [*QUICK, "--points=3", plot]
    assert "No such file" in refused(capsys, "curve", *words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "steps, curve, compare, tradeoff), got none"),
        (["budget"], "got budget"),
        (["epsilon", "delta"], "got epsilon delta"),
        (["epsilon", "--nothing"], "nothing"),
        (["epsilon", "--delta=x"], "delta"),
        (["epsilon", "--accountant=moments"], "accountant"),
        (["epsilon", *RUN], "--delta, got none"),
        (["epsilon", *QUICK, "--delta=0"], "--delta=0.0"),
        (["noise", *RUN[1:], "--delta=1e-5", "--epsilon=0"], "epsilon"),
        (["steps", *RUN[:2], "--delta=1e-5", "--epsilon=1e-9"], "target"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, words, complaint):
    assert complaint in refused(capsys, *words)


HOSTILE = [
    ("--delta=1e-300",),
    ("--sampling_prob=1e-12",),
    ("--noise_multiplier=1e-3",),
    ("--noise_multiplier=1e6",),
    ("--num_steps=1000000000",),
    ("--delta=1e-300", "--sampling_prob=1e-12"),
    ("--delta=1e-300", "--noise_multiplier=1e-3", "--num_steps=1000000000"),
    ("--delta=1e-300", "--noise_multiplier=1e6"),
    ("--sampling_prob=1e-12", "--noise_multiplier=1e-3", "--num_steps=1000000000"),
    ("--sampling_prob=1e-12", "--noise_multiplier=1e6", "--num_steps=1000000000"),
    ("--sampling_prob=1", "--noise_multiplier=1e6", "--num_steps=1000000000"),
]


@pytest.mark.parametrize("changes", HOSTILE, ids=" ".join)
@pytest.mark.parametrize("accountant", ["exact", "pld", "rdp"])
def test_hostile_numbers_give_a_bound_or_one_line(capsys, accountant, changes):
    words = [*RUN, "--delta=1e-5", f"--accountant={accountant}", *changes, "--json"]
    status = ended_with("epsilon", *words)
    said = capsys.readouterr()
    if status == 0:
        epsilon = json.loads(said.out)["epsilon"]
        assert epsilon == "inf" or epsilon >= 0
    else:
        assert (status, said.out, said.err.count("\n")) == (2, "", 1)


def ended_with(*words):
    try:
        call(*words)
    except SystemExit as ended:
        return ended.code
    return 0


def program(*words):
    command = [sys.executable, "-m", "dpjax.accounting", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_program_answers():
    found = program("compare", *QUICK[:-1], "--json")
    assert (found.returncode, found.stderr) == (0, "")
    assert list(json.loads(found.stdout)["epsilons"]) == ["exact", "pld", "rdp"]


def test_the_program_ends_with_status_2_and_without_a_traceback():
    found = program("epsilon", "--delta=2", *RUN)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "dpjax.accounting: Expected a number in (0, 1), got --delta=2.0.\n"
    )


def test_the_program_explains_its_commands_and_flags():
    found = program("--help").stdout
    for words in ("COMMAND is one of", "noise    the least noise", "--sampling_prob:"):
        assert words in found
