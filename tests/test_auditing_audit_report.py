"""The report of an audit: verdict, ROC curve, to a file and back."""

import dataclasses
import json

import numpy as np
import pytest

from dpjax.accounting import Epsilon
from dpjax.auditing import AuditError, AuditReport, LowerBound, auroc


def report(bound=0.5, **changes):
    values = {
        "theoretical": Epsilon(2.0, error=1e-9, method="exact"),
        "delta": 1e-5,
        "significance": 0.05,
        "method": "dp",
        "score": "gradient",
        "bounds": {"dp": bound, "fdp_gaussian": 0.7},
        "scores": (0.3, 0.1, 0.2, 0.2),
        "coins": (True, False, True, False),
        "num_guesses": 2,
        "canaries": {"family": "gradient", "count": 4},
        "mechanism": {"num_steps": 3},
        "access": "white-box",
        "seeds": {"coins": 2**62, "key": [1, 2]},
        "settings": {"model": "cnn"},
        "versions": {"dpjax": "0"},
    }
    return AuditReport(**(values | changes))


def test_a_bound_above_the_promise_refutes_it():
    found = report(2.1)
    assert found.violated
    assert found.verdict == (
        "Violation: the training is not (2.000, 1e-05)-differentially private, with "
        "95 % confidence: its epsilon is at least 2.100."
    )


@pytest.mark.parametrize(
    ("bound", "words"), [(1.9, "at least 1.900"), (0.0, "epsilon may be 0")]
)
def test_a_bound_below_it_proves_nothing(bound, words):
    found = report(bound)
    assert not found.violated
    assert words in found.verdict
    assert "no proof" in found.verdict


def test_what_follows_from_the_rest_is_derived():
    found = report(0.5)
    bound = LowerBound(0.5, delta=1e-5, significance=0.05, method="dp")
    assert (found.lower_bound, vars(found.lower_bound)) == (bound, vars(bound))
    assert found.num_correct == 2
    assert report(coins=(False, True, False, True)).num_correct == 0
    shown = json.loads(found.to_json())
    assert (shown["lower_bound"], shown["num_correct"]) == (0.5, 2)
    with pytest.raises(ValueError, match="a bound by method='fdp'"):
        report(method="fdp")


def test_json_gives_the_same_report():
    found = report()
    again = AuditReport.from_json(found.to_json())
    assert again == found
    assert vars(again.theoretical) == vars(found.theoretical)
    assert vars(again.lower_bound) == vars(found.lower_bound)
    assert json.loads(found.to_json())["verdict"] == found.verdict


def test_an_infinite_promise_survives():
    found = report(theoretical=Epsilon(np.inf, error=0.0, method="exact"))
    assert AuditReport.from_json(found.to_json()) == found


def test_a_folder_keeps_it_and_replaces_it_whole(tmp_path):
    folder = tmp_path / "new"
    report(0.1).save(folder)
    path = report(0.2).save(folder)
    assert AuditReport.load(folder) == report(0.2)
    assert [path] == list(folder.iterdir())


def without_coins(value):
    del value["seeds"]["coins"]


def without_scores(value):
    del value["scores"]


def without_seeds(value):
    value["seeds"] = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_coins, "seed of the coins"),
        (without_scores, "scores"),
        (without_seeds, "JSON of an audit"),
        (lambda value: value.update(theoretical=3), "JSON of an audit"),
        (lambda value: value.update(coins=[True] * 4), "in and out"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    value = json.loads(report().to_json())
    damage(value)
    (tmp_path / "audit.json").write_text(json.dumps(value))
    with pytest.raises(AuditError, match=message):
        AuditReport.load(tmp_path)


def test_a_folder_without_an_audit_is_refused(tmp_path):
    with pytest.raises(AuditError, match="Expected an audit"):
        AuditReport.load(tmp_path)
    with pytest.raises(AuditError, match="JSON"):
        AuditReport.from_json("{")


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": (0.1, np.nan, 0.2, 0.3)},
        {"coins": (True, False)},
        {"coins": (False,) * 4},
    ],
)
def test_what_says_nothing_makes_no_report(changes):
    with pytest.raises(ValueError, match="Expected"):
        report(**changes)


def test_the_curve_goes_from_nothing_to_all_and_has_the_area_of_the_scores():
    rng = np.random.default_rng(0)
    coins = rng.random(300) < 0.5
    scores = np.round(rng.normal(size=300) + coins, 1)
    found = report(scores=tuple(scores), coins=tuple(coins))
    false, true = found.roc
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(false) >= 0)
    assert np.all(np.diff(true) >= 0)
    area = np.trapezoid(true, false)
    assert area == pytest.approx(float(auroc(found.in_scores, found.out_scores).value))


def test_reports_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().delta = 0.5


def test_scores_of_private_examples_are_told_only_where_they_are_asked_for(tmp_path):
    canaries = {"family": "example", "kind": "mislabelled", "count": 6}
    scores = (0.31, -0.12, 0.25, 0.25, 7.5, -3.75)
    coins = (True, False, True, False, True, False)
    found = report(scores=scores, coins=coins, canaries=canaries)
    assert AuditReport.from_json(found.to_json(per_example_scores=True)) == found
    found.save(tmp_path)
    text = (tmp_path / "audit.json").read_text()
    assert not [score for score in scores if str(score) in text]
    ranked = AuditReport.load(tmp_path)
    assert ranked.scores == (0.0, 1.0, 2.0, 2.0, 3.0, 4.0)
    assert ranked.num_correct == found.num_correct
    for one, other in zip(ranked.roc, found.roc, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "canaries",
    [{"family": "gradient", "count": 4}, {"family": "example", "kind": "random"}],
)
def test_scores_of_canaries_that_are_made_up_are_told(canaries):
    found = report(canaries=canaries)
    assert AuditReport.from_json(found.to_json()) == found
