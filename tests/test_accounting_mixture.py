"""The privacy loss of a mixture of Gaussians."""

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from dpjax.accounting.laws import mixture, privacy_loss
from dpjax.accounting.laws.mixture import GaussianMixture
from dpjax.accounting.laws.privacy_loss import SampledGaussian

PAIR = GaussianMixture(0.8, (0.0, 1.0, 2.0), (0.81, 0.18, 0.01))
NO_ZERO = GaussianMixture(3.0, (1.0, 4.0), (0.7, 0.3))
PAIRS = [PAIR, NO_ZERO, GaussianMixture(20.0, (0.0, 5.0), (1 - 1e-9, 1e-9))]


def event(noise, shifts, masses):
    return dp_accounting.dp_event.MixtureOfGaussiansDpEvent(noise, shifts, masses)


@pytest.mark.parametrize("pair", PAIRS)
def test_loss_is_the_logarithm_of_the_ratio_of_densities(pair):
    x = np.linspace(-9, 9, 41) * pair.noise
    shifts = stats.norm.logpdf(x, np.array(pair.shifts)[:, None], pair.noise)
    upper = np.logaddexp.reduce(shifts + np.log(pair.masses)[:, None], axis=0)
    expected = upper - stats.norm.logpdf(x, 0, pair.noise)
    np.testing.assert_allclose(pair.loss(x), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("pair", PAIRS)
def test_output_undoes_loss(pair):
    x = np.linspace(*pair.range(1e-30), 101)
    losses = pair.loss(x)
    np.testing.assert_allclose(pair.loss(pair.output(losses)), losses, rtol=1e-10)
    resolved = np.abs(np.diff(losses, append=np.inf)) > 1e-6 * np.abs(losses)
    np.testing.assert_allclose(pair.output(losses)[resolved], x[resolved], atol=1e-6)


def test_below_the_least_loss_there_is_no_output():
    least = math.log(0.81)
    found = PAIR.output(np.array([least - 1, least - 1e-9, least + 1e-3]))
    assert np.isneginf(found[:2]).all()
    assert np.isfinite(found[2])
    assert np.isfinite(NO_ZERO.output(np.array([-50.0]))).all()


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_distance_is_half_the_integral_of_the_densities_difference(pair):
    def gap(x):
        upper = stats.norm.pdf(x, np.array(pair.shifts), pair.noise) @ pair.masses
        return abs(upper - stats.norm.pdf(x, 0, pair.noise)) / 2

    low, high = pair.range(1e-14)
    edge = pair.output(np.zeros(1))[0]
    expected, _ = integrate.quad(gap, low, high, points=[edge], epsabs=1e-13)
    assert pair.distance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
def test_range_leaves_out_no_more_than_the_tail(pair):
    low, high = pair.range(1e-8)
    beyond = np.dot(pair.masses, stats.norm.sf(high, np.array(pair.shifts), pair.noise))
    assert beyond <= 1e-8 * (1 + 1e-9)
    assert stats.norm.cdf(low, 0, pair.noise) <= 1e-8


def test_cells_hold_all_mass_and_its_excess():
    upper, lower, excess = PAIR.cells(np.array([-np.inf, -1.0, 0.0, 0.5, 3.0, np.inf]))
    assert upper.sum() == pytest.approx(1.0, abs=1e-15)
    assert lower.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(excess, upper - lower, atol=1e-15)


def test_nodes_weigh_both_laws():
    removed, added = PAIR.nodes(1e-20)
    assert np.exp(removed.log_weights).sum() == pytest.approx(1.0, rel=1e-12)
    # E_P e^-L = 1, which is that Q's weights sum to 1.
    assert np.exp(added.log_weights).sum() == pytest.approx(1.0, rel=1e-9)
    np.testing.assert_array_equal(added.losses, -removed.losses)


@given(noise=st.floats(0.1, 30), rate=st.floats(1e-6, 0.9))
def test_one_shift_is_the_sampled_gaussian(noise, rate):
    pair = GaussianMixture(noise, (0.0, 1.0), (1 - rate, rate))
    single = SampledGaussian(noise, rate)
    assert pair.distance == pytest.approx(single.distance, rel=1e-6)
    ours = privacy_loss.grid_laws(pair, 0.05, 1e-12)
    theirs = privacy_loss.grid_laws(single, 0.05, 1e-12)
    for law, other in zip(ours, theirs, strict=True):
        # The ends may round to one grid point more, of next to no mass.
        shift = other.lowest - law.lowest
        masses = np.zeros(law.masses.size + 4)
        masses[2 : 2 + law.masses.size] = law.masses
        others = np.zeros_like(masses)
        others[2 + shift : 2 + shift + other.masses.size] = other.masses
        np.testing.assert_allclose(masses, others, atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        event(1.0, [0.0, 1.0], [0.5, 0.4]),
        event(1.0, [0.0, 1.0], [1.0]),
        event(1.0, [0.0, 1.0], [1.5, -0.5]),
        event(1.0, [0.0], [1.0]),
        event(1.0, [-1.0, 1.0], [0.5, 0.5]),
        event(0.0, [0.0, 1.0], [0.5, 0.5]),
    ],
)
def test_what_is_no_mixture_is_refused(wrong):
    with pytest.raises(ValueError, match=r"Expected .*, got "):
        mixture.from_event(wrong)


def test_shifts_of_no_mass_are_left_out():
    pair = mixture.from_event(event(2.0, [0.0, 1.0, 7.0], [0.5, 0.5, 0.0]))
    assert pair == GaussianMixture(2.0, (0.0, 1.0), (0.5, 0.5))
    assert pair.largest_shift == 0.5
