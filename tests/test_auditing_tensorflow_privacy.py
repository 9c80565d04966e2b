"""tensorflow-privacy's attacks agree with ours wherever both have a number."""

import sys

import numpy as np
import pytest
from scipy import stats

from dpjax.auditing import attacks, curves, slices, tensorflow_privacy

RANDOM = np.random.default_rng(0)
IN_LABELS, OUT_LABELS = np.arange(200) % 3, np.arange(160) % 3


def logits_of(labels, sharpness):
    noise = RANDOM.normal(size=(labels.size, 3))
    return noise + sharpness * np.eye(3)[labels]


IN_LOGITS, OUT_LOGITS = logits_of(IN_LABELS, 2.0), logits_of(OUT_LABELS, 1.0)
SIDES = (IN_LOGITS, IN_LABELS, OUT_LOGITS, OUT_LABELS)


@pytest.fixture(scope="module")
def suite():
    try:
        tensorflow_privacy.threshold_attack([1.0], [0.0])
    except ImportError:
        pytest.skip("tensorflow-privacy is not installed")
    return tensorflow_privacy


def losses(logits, labels):
    return -stats.logistic.logcdf(attacks.logit_scores(logits, labels))


def assert_same_curve(found, ins, outs):
    assert (found.num_in, found.num_out) == (len(ins), len(outs))
    np.testing.assert_allclose(found.auc, curves.auroc(ins, outs).value, rtol=1e-9)
    # The largest distance of two distribution functions: Kolmogorov and Smirnov's.
    distance = stats.ks_2samp(ins, outs).statistic
    np.testing.assert_allclose(found.advantage, distance, rtol=1e-9)


@pytest.mark.parametrize("digits", [6, 0])
def test_threshold_attack_has_our_area_and_advantage_also_with_ties(suite, digits):
    ins = RANDOM.normal(1, 1, 300).round(digits)
    outs = RANDOM.normal(0, 1, 200).round(digits)
    assert_same_curve(suite.threshold_attack(ins, outs), ins, outs)


def test_attack_on_logits_is_the_attack_on_our_losses(suite):
    (found,) = suite.membership_attacks(*SIDES)
    ours = -losses(IN_LOGITS, IN_LABELS), -losses(OUT_LOGITS, OUT_LABELS)
    assert_same_curve(found, *ours)


def test_slices_are_ours(suite):
    found = suite.membership_attacks(*SIDES, by_class=True, by_correctness=True)
    groups = [
        {"class": labels, "correct": logits.argmax(-1) == labels}
        for logits, labels in (SIDES[:2], SIDES[2:])
    ]
    ours = slices.attack_slices(
        -losses(IN_LOGITS, IN_LABELS), -losses(OUT_LOGITS, OUT_LABELS), *groups
    )
    key = lambda each: (each[0], each[1], round(each[2], 9))  # noqa: E731
    assert sorted(((a.num_in, a.num_out, a.auc) for a in found), key=key) == [
        pytest.approx(each)
        for each in sorted(
            ((s.num_in, s.num_out, s.auroc.value) for s in ours), key=key
        )
    ]


@pytest.mark.slow
def test_the_suite_trains_attacks_of_its_own(suite):
    names = ["threshold", "entropy", "logistic", "nearest"]
    found = suite.membership_attacks(*SIDES, attacks=names)
    assert sorted(each.attack for each in found) == sorted(names)
    assert all(0 <= each.auc <= 1 for each in found)


@pytest.mark.parametrize("fixed", [True, False])
def test_lira_gives_our_scores_once_its_variances_are_unbiased(suite, fixed):
    models, size = 16, 120
    # Every example is in half of the models.
    had = np.stack([RANDOM.permutation(models) < models // 2 for _ in range(size)], 1)
    scores = RANDOM.normal(size=(models, size)) + 2 * had
    target = RANDOM.normal(size=size) + 1
    stretched = scores.copy()
    for side in (had, ~had):
        mean = np.mean(scores, 0, where=side)
        stretch = np.sqrt(models / 2 / (models / 2 - 1))
        stretched = np.where(side, mean + stretch * (scores - mean), stretched)
    theirs = suite.lira(target, stretched, had, fixed_variance=fixed, centre="mean")
    ours = attacks.lira(target, scores, had, fixed_variance=fixed)
    np.testing.assert_allclose(theirs, ours, rtol=1e-9)


def test_lira_of_medians_ranks_as_ours_does(suite):
    models, size = 32, 400
    had = RANDOM.random((models, size)) < 0.5
    scores = RANDOM.normal(size=(models, size)) + 2 * had
    member = np.arange(size) < size // 2
    target = RANDOM.normal(size=size) + 2 * member
    areas = [
        curves.auroc(found[member], found[~member]).value
        for found in (
            suite.lira(target, scores, had),
            attacks.lira(target, scores, had),
        )
    ]
    assert abs(areas[0] - areas[1]) < 0.03


def test_switch_is_left_as_it_was(suite):
    suite.threshold_attack([1.0], [0.0])
    assert not hasattr(sys, "skip_tf_privacy_import")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorflow_priv")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_privacy", None)
    with pytest.raises(ImportError, match="pip install --no-deps tensorflow-privacy"):
        tensorflow_privacy.threshold_attack([1.0], [0.0])
    assert not hasattr(sys, "skip_tf_privacy_import")


def test_unknown_attacks_and_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="attacks"):
        tensorflow_privacy.membership_attacks(*SIDES, attacks=["guess"])
    with pytest.raises(ValueError, match="membership"):
        tensorflow_privacy.lira([1.0], np.ones((4, 1)), np.ones((3, 1), bool))
    with pytest.raises(ValueError, match="centre"):
        tensorflow_privacy.lira(
            [1.0], np.ones((4, 1)), np.ones((4, 1), bool), centre="mode"
        )
