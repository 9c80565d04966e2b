"""ROC numbers and their intervals."""

import numpy as np
import pytest
from scipy import stats

from dpjax.auditing import auroc, tpr_at_fpr


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    ins, outs = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.5])
    pairs = np.sign(ins[:, None] - outs) / 2 + 0.5
    assert auroc(ins, outs).value == pytest.approx(pairs.mean())
    assert auroc(outs, outs).value == 0.5


def test_the_interval_holds_the_area_as_often_as_stated():
    rng, trials = np.random.default_rng(0), 2000
    truth, held = stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(trials):
        found = auroc(rng.normal(1, size=60), rng.normal(size=80), significance=0.1)
        held += found.low <= truth <= found.high
    assert 0.87 * trials < held < 0.93 * trials


@pytest.mark.parametrize(
    ("fpr", "hits"), [(0.1, 2), (0.25, 3), (0.5, 4), (1.0, 5), (1e-6, 2)]
)
def test_tpr_is_that_of_the_best_test_allowed(fpr, hits):
    outs = np.array([4.0, 3.0, 2.0, 1.0])
    ins = np.array([5.0, 4.5, 3.5, 2.5, 0.0])
    found = tpr_at_fpr(ins, outs, fpr)
    assert found.value == hits / 5
    assert found.low <= found.value <= found.high


def test_ties_never_pass_the_false_positive_rate():
    assert tpr_at_fpr([1.0, 1.0], [1.0] * 10, 0.5).value == 0.0


@pytest.mark.parametrize("fpr", [0.0, -0.1, 1.1, np.nan])
def test_rates_out_of_range_are_refused(fpr):
    with pytest.raises(ValueError, match="fpr"):
        tpr_at_fpr([1.0], [0.0], fpr)
