"""Slices of an attack: the right examples, and intervals that hold together."""

import numpy as np
import pytest

from dpjax.auditing import curves
from dpjax.auditing.slices import attack_slices

RANDOM = np.random.default_rng(0)
IN_CLASS, OUT_CLASS = np.arange(300) % 3, np.arange(240) % 3
IN_SCORES = RANDOM.normal(size=300) + IN_CLASS
OUT_SCORES = RANDOM.normal(size=240)
GROUPS = ({"class": IN_CLASS}, {"class": OUT_CLASS})


def test_each_slice_has_the_numbers_of_its_examples_alone():
    found = attack_slices(IN_SCORES, OUT_SCORES, *GROUPS, fpr=0.2)
    assert [(s.group, s.value) for s in found] == [
        ("all", None),
        *(("class", value) for value in range(3)),
    ]
    for each in found[1:]:
        mine = IN_SCORES[each.value == IN_CLASS]
        theirs = OUT_SCORES[each.value == OUT_CLASS]
        assert (each.num_in, each.num_out) == (mine.size, theirs.size) == (100, 80)
        options = {"significance": 0.05 / 8}
        assert each.auroc == curves.auroc(mine, theirs, **options)
        assert each.tpr == curves.tpr_at_fpr(mine, theirs, 0.2, **options)
    assert found[1].auroc.value < found[2].auroc.value < found[3].auroc.value


def test_everybody_alone_pays_for_two_intervals():
    (found,) = attack_slices(IN_SCORES, OUT_SCORES, {}, {})
    assert found.auroc == curves.auroc(IN_SCORES, OUT_SCORES, significance=0.025)


def test_correctness_and_class_are_sliced_side_by_side():
    ins = GROUPS[0] | {"correct": IN_SCORES > 0}
    outs = GROUPS[1] | {"correct": OUT_SCORES > 0}
    found = attack_slices(IN_SCORES, OUT_SCORES, ins, outs)
    assert [s.value for s in found if s.group == "correct"] == [False, True]
    sizes = [(s.num_in, s.num_out) for s in found if s.group == "correct"]
    assert np.sum(sizes, axis=0).tolist() == [300, 240]


def test_slices_with_too_few_examples_are_left_out():
    rare = np.where(np.arange(300) < 9, 7, IN_CLASS)
    found = attack_slices(IN_SCORES, OUT_SCORES, {"class": rare}, GROUPS[1])
    assert [s.value for s in found] == [None, 0, 1, 2]
    found = attack_slices([1.0], [0.0], {}, {})
    assert found[0].num_in == 1


@pytest.mark.slow
def test_all_intervals_hold_together_at_the_stated_confidence():
    random, misses, trials = np.random.default_rng(1), 0, 2000
    groups = {"class": np.arange(400) % 4}
    for _ in range(trials):
        ins, outs = random.normal(size=(2, 400))
        found = attack_slices(ins, outs, groups, groups, significance=0.1)
        misses += any(not s.auroc.low <= 0.5 <= s.auroc.high for s in found)
    # Half of the significance is spent on the AUROCs; DeLong's interval is approximate.
    assert misses / trials < 0.08


@pytest.mark.parametrize(
    ("groups", "options", "error", "match"),
    [
        (({"class": IN_CLASS}, {}), {}, ValueError, "out_groups"),
        (({"a": IN_CLASS[1:]}, {"a": OUT_CLASS}), {}, ValueError, "300 values"),
        (GROUPS, {"least": 0}, ValueError, "least"),
        (GROUPS, {"significance": 1.0}, ValueError, "significance"),
        (GROUPS, {"fpr": 0.0}, ValueError, "fpr"),
    ],
)
def test_what_does_not_fit_is_refused(groups, options, error, match):
    with pytest.raises(error, match=match):
        attack_slices(IN_SCORES, OUT_SCORES, *groups, **options)


@pytest.mark.parametrize("scores", [[np.nan, 1.0], []])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        attack_slices(scores, OUT_SCORES, {}, {})
