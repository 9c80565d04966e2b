"""Privacy losses added up."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest

from dpjax.accounting.grids import composition
from dpjax.accounting.grids.window import find_window
from dpjax.accounting.laws.privacy_loss import LossLaw, SampledGaussian, grid_laws

TAIL = 1e-30


def compose(pairs, counts, interval, delta, side=0):
    laws = [grid_laws(pair, interval, TAIL)[side] for pair in pairs]
    window = find_window([pair.nodes(TAIL)[side] for pair in pairs], counts, delta)
    return composition.epsilon(laws, counts, window, interval=interval, delta=delta)


@pytest.mark.parametrize(
    ("mu", "count", "delta"),
    list(itertools.product((0.01, 1.0, 30.0), (1, 1000, 10**6), (0.1, 1e-5, 1e-15))),
)
def test_composed_gaussians_have_the_epsilon_of_their_closed_form(mu, count, delta):
    pair = SampledGaussian(math.sqrt(count) / mu, 1.0)
    interval = max(mu / math.sqrt(count) / 50, mu / 2e4)
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    epsilon = compose([pair], [count], interval, delta)
    assert truth * (1 - 1e-9) <= epsilon <= truth * (1 + 5e-3) + 1e-12


def test_losses_of_different_laws_add_up_to_that_of_one_gaussian():
    # Precisions add: 1 + 3 / 4 = 7 / 4.
    pairs = [SampledGaussian(1.0, 1.0), SampledGaussian(2.0, 1.0)]
    truth = dp_accounting.get_epsilon_gaussian(math.sqrt(4 / 7), 1e-6)
    epsilon = compose(pairs, [1, 3], 1e-3, 1e-6)
    assert truth <= epsilon <= truth * (1 + 1e-5)
    assert compose(pairs[::-1], [3, 1], 1e-3, 1e-6) == pytest.approx(epsilon, rel=1e-12)


@pytest.mark.parametrize("side", [0, 1], ids=["removed", "added"])
def test_composition_agrees_with_direct_convolution(side):
    pair, interval, delta = SampledGaussian(0.8, 0.2), 0.01, 1e-4
    law = grid_laws(pair, interval, TAIL)[side]
    masses, lowest = law.masses, 5 * law.lowest
    for _ in range(4):
        masses = np.convolve(masses, law.masses)
    losses = interval * (lowest + np.arange(masses.size))

    def direct_delta(epsilon):
        return -np.expm1(np.minimum(0, epsilon - losses)) @ masses

    epsilon = compose([pair], [5], interval, delta, side)
    assert direct_delta(epsilon) == pytest.approx(delta, rel=1e-5)
    assert direct_delta(epsilon) <= delta


@pytest.mark.parametrize("side", [0, 1], ids=["removed", "added"])
@pytest.mark.parametrize("about", [1e-2, 1e-6], ids=["right", "too small"])
def test_delta_agrees_with_direct_convolution(side, about):
    pair, interval, epsilon = SampledGaussian(0.8, 0.2), 0.01, 1.5
    law = grid_laws(pair, interval, TAIL)[side]
    masses, lowest = law.masses, 5 * law.lowest
    for _ in range(4):
        masses = np.convolve(masses, law.masses)
    losses = interval * (lowest + np.arange(masses.size))
    direct = -np.expm1(np.minimum(0, epsilon - losses)) @ masses
    window = find_window([pair.nodes(TAIL)[side]], [5], about)
    log_delta = composition.log_delta(
        [law], [5], window, interval=interval, delta=about, epsilon=epsilon
    )
    assert direct <= math.exp(log_delta) <= direct * (1 + 1e-5) + 1e-5 * about


def test_an_epsilon_below_what_the_window_tells_is_its_least():
    # Large losses, which are rare, draw the window above what the delta asks for.
    pair, delta = SampledGaussian(1.23, 5.8e-5), 8e-5
    window = find_window([pair.nodes(TAIL)[1]], [5], delta)
    assert 0 < window.least == max(window.low, window.bound - 18 / window.tilt)
    assert compose([pair], [5], 1e-6, delta, 1) == window.least
    flat = find_window([pair.nodes(TAIL)[1]], [5], delta, 0.0)
    assert flat.tilt == 0.0
    assert flat.least < 0


def test_a_coarser_grid_never_gives_less():
    pair = SampledGaussian(1.0, 0.01)
    epsilons = [compose([pair], [300], h, 1e-5) for h in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] < epsilons[-1]


def test_delta_below_the_mass_at_infinity_has_no_epsilon():
    pair = SampledGaussian(1.0, 1.0)
    law = grid_laws(pair, 0.1, TAIL)[0]
    leaking = LossLaw(law.lowest, law.masses, 1e-6)
    window = find_window([pair.nodes(TAIL)[0]], [20], 1e-5)
    assert composition.epsilon([leaking], [20], window, interval=0.1, delta=1e-5) == (
        math.inf
    )


def test_a_delta_that_the_composition_never_exceeds_has_epsilon_zero():
    assert compose([SampledGaussian(1.0, 1e-3)], [2], 1e-5, 0.5) == 0.0
