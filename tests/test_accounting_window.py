"""The window of a composition."""

import math

import numpy as np
import pytest
from scipy import special

from dpjax.accounting.grids.window import find_window
from dpjax.accounting.laws.privacy_loss import Nodes, SampledGaussian


@pytest.mark.parametrize("delta", [0.1, 1e-5, 1e-15])
@pytest.mark.parametrize("count", [1, 100, 10**8])
def test_window_of_a_gaussian_total_holds_all_but_its_tails(count, delta):
    # `count` releases with noise sqrt(count) / mu have the loss N(mu^2 / 2, mu^2).
    mu = 2.0
    pair = SampledGaussian(math.sqrt(count) / mu, 1.0)
    window = find_window([pair.nodes(1e-30)[0]], [count], delta)
    # Chernoff's bound on epsilon is mu^2 / 2 + mu sqrt(2 log(1 / delta)).
    bound = mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta))
    assert window.bound == pytest.approx(bound, rel=1e-3)
    assert window.low < bound < window.high
    middle = mu**2 / 2 + window.tilt * mu**2
    outside = special.ndtr((window.low - middle) / mu)
    outside += special.ndtr((middle - window.high) / mu)
    assert outside < math.exp(-14)


def test_rounding_grows_with_the_number_of_losses():
    pair = SampledGaussian(1.0, 0.01)
    windows = [find_window([pair.nodes(1e-20)[0]], [n], 1e-5) for n in (10, 10**6)]
    assert windows[0].rounding < windows[1].rounding < 1e-3


def test_a_loss_that_cannot_exceed_its_end_keeps_a_finite_window():
    # Adding one to data of which it is sampled with q = 1/2 loses at most log 2.
    window = find_window([SampledGaussian(0.1, 0.5).nodes(1e-9)[1]], [1], 1e-3)
    assert window.bound == pytest.approx(math.log(2), rel=1e-3)
    assert np.isfinite(window).all()


def test_a_loss_that_is_the_only_one_is_a_window_without_tilt():
    only = Nodes(losses=np.array([70.0]), log_weights=np.array([-1e-12]))
    view = find_window([only], [1000], 1e-100)
    assert view.bound == 70_000
    assert view.low < view.bound < view.high
    assert view.high - view.low < 1
    assert view.tilt == 0
    assert view.least == view.low
