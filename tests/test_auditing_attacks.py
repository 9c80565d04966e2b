"""LiRA and RMIA against closed forms and on simulated models."""

import numpy as np
import pytest
from scipy import special, stats

from dpjax.auditing import auroc, lira, logit_scores, rmia


def population(models=40, examples=400, gap=2.0, seed=0):
    """Return scores of models whose members score higher, example by example."""
    rng = np.random.default_rng(seed)
    had = rng.random((models, examples)) < 0.5
    hardness = 3 * rng.normal(size=examples)
    return rng.normal(size=had.shape) + hardness + gap * had, had


def test_logit_scores_are_log_odds_even_where_probabilities_are_one():
    logits = np.array([[1.0, 2.0, -1.0], [0.0, 3.0, 1.0]])
    p = special.softmax(logits, axis=-1)[[0, 1], [2, 1]]
    found = logit_scores(logits, np.array([2, 1]))
    np.testing.assert_allclose(found, np.log(p) - np.log1p(-p), rtol=1e-12)
    assert logit_scores([[800.0, 0.0]], [0])[0] == 800.0
    many = logit_scores(np.stack([logits, logits + 7]), np.array([2, 1]))
    np.testing.assert_allclose(many, [found, found], rtol=1e-12)


def test_lira_is_the_log_ratio_of_two_normal_densities():
    scores, had = population(models=9, examples=3, seed=4)
    had[0], had[1], had[2], had[3] = True, False, True, False
    target = np.array([0.3, -1.0, 2.0])
    found = lira(target, scores, had, fixed_variance=False)
    for i in range(3):
        ins, outs = scores[had[:, i], i], scores[~had[:, i], i]
        ratio = stats.norm.logpdf(target[i], ins.mean(), ins.std(ddof=1))
        ratio -= stats.norm.logpdf(target[i], outs.mean(), outs.std(ddof=1))
        assert found[i] == pytest.approx(ratio, rel=1e-9)
    offline = lira(target, scores, had, online=False, fixed_variance=False)
    outs = scores[~had[:, 0], 0]
    tail = stats.norm.logcdf(target[0], outs.mean(), outs.std(ddof=1))
    assert offline[0] == pytest.approx(tail, rel=1e-9)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("fixed_variance", [True, False, None])
def test_lira_beats_the_raw_score_where_examples_differ(online, fixed_variance):
    scores, had = population()
    found = lira(
        scores[0], scores[1:], had[1:], online=online, fixed_variance=fixed_variance
    )
    raw = auroc(scores[0][had[0]], scores[0][~had[0]])
    ratio = auroc(found[had[0]], found[~had[0]])
    assert raw.high < ratio.value
    assert ratio.value > 0.8


def test_views_are_averaged():
    scores, had = population(models=12, examples=30)
    once = lira(scores[0], scores[1:], had[1:])
    twice = lira(np.stack([scores[0]] * 2, -1), np.stack([scores[1:]] * 2, -1), had[1:])
    np.testing.assert_allclose(once, twice, rtol=1e-12)


def confidences(seed=1, models=4, examples=300):
    scores, had = population(models + 1, examples + 200, 1.5, seed)
    # Those of the population are in no training set.
    scores[:, examples:] -= 1.5 * had[:, examples:]
    had[:, examples:] = False
    return special.expit(scores), had, examples


def test_rmia_is_the_share_of_the_population_that_is_beaten():
    target, models = np.array([0.9, 0.2]), np.array([[0.8, 0.3], [0.4, 0.5]])
    had = np.array([[True, False], [False, True]])
    others, other_models = np.array([0.5, 0.6, 0.1]), np.array([[0.5, 0.5, 0.5]] * 2)
    found = rmia(target, models, had, others, other_models, gamma=1.0)
    # Ratios: 0.9 / 0.6 and 0.2 / 0.4, against 1, 1.2 and 0.2.
    np.testing.assert_allclose(found, [1.0, 1 / 3])
    strict = rmia(target, models, had, others, other_models, gamma=2.0)
    np.testing.assert_allclose(strict, [1 / 3, 1 / 3])
    offline = rmia(
        target,
        models,
        had,
        others,
        other_models,
        online=False,
        offline_slope=0.0,
        gamma=1.0,
    )
    # Without its slope, p(x) is (p_out + 1) / 2: 0.7 and 0.65.
    np.testing.assert_allclose(offline, [2 / 3 + 1 / 3, 1 / 3])


@pytest.mark.parametrize("online", [True, False])
def test_rmia_finds_members_with_few_models(online):
    values, had, examples = confidences(models=6)
    had[1:3, :examples] = [True], [False]
    found = rmia(
        values[0, :examples],
        values[1:, :examples],
        had[1:, :examples],
        values[0, examples:],
        values[1:, examples:],
        online=online,
    )
    member = had[0, :examples]
    raw = auroc(values[0, :examples][member], values[0, :examples][~member])
    assert auroc(found[member], found[~member]).value > raw.value


GOOD = (np.zeros(3), np.arange(12.0).reshape(4, 3), np.eye(4, 3) > 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: [np.nan, 0, 0]}, "target_scores"),
        ({0: np.zeros((3, 1, 1))}, "target_scores.shape"),
        ({1: np.zeros((4, 2))}, "model_scores.shape"),
        ({2: np.ones((4, 3))}, "membership"),
        ({2: np.ones((4, 3), bool)}, "models without example 0"),
        ({2: np.zeros((4, 3), bool)}, "models with example 0"),
    ],
)
def test_tables_that_do_not_fit_are_refused(changed, message):
    arguments = [changed.get(i, value) for i, value in enumerate(GOOD)]
    with pytest.raises(ValueError, match=message):
        lira(*arguments)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((2, 3)), [0, 3]),
        (np.zeros((2, 3)), [0, -1]),
        (np.zeros((2, 3)), [0.0, 1.0]),
        (np.zeros((2, 3)), [0]),
        (np.zeros((2, 1)), [0, 0]),
        (np.zeros(2), [0, 0]),
        ([[np.inf, 0.0]], [0]),
    ],
)
def test_logits_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(ValueError, match="Expected"):
        logit_scores(logits, np.array(labels))
