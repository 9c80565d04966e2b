"""Nodes for moments of a privacy loss, and what they leave out."""

import numpy as np
import pytest
from scipy import special

from dpjax.accounting.contours import quadrature
from dpjax.accounting.contours.quadrature import Region
from dpjax.accounting.laws.privacy_loss import SampledGaussian

PAIR = SampledGaussian(0.8, 0.03)
PAIRS = [PAIR, SampledGaussian(0.8, 0.03, True)]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_density_of_q_integrates_to_one(pair):
    x = np.linspace(-12.0, 12.0, 401)
    total = np.exp(quadrature.log_density(pair, x)).sum() * (x[1] - x[0])
    assert total == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("pair", PAIRS)
def test_hardly_any_mass_is_left_out_at_the_top(pair):
    region = Region(-30.0, False)
    upper, lower = region.left_out(pair)
    assert 0 < lower < upper < np.exp(-30.0)


def test_a_ceiling_divides_the_masses_of_both_laws():
    region = Region(-60.0, False, ceiling=1.0)
    x = np.linspace(-10.0, 12.0, 4001)
    weights = np.exp(quadrature.log_density(PAIR, x)) * (x[1] - x[0])
    kept = np.exp(region.log_kept(PAIR, x))
    upper, lower = region.left_out(PAIR)
    assert lower + weights @ kept == pytest.approx(1.0, rel=1e-13)
    assert upper + weights @ (kept * np.exp(PAIR.loss(x))) == pytest.approx(1.0)
    assert np.exp(region.log_kept(PAIR, PAIR.output(np.array([0.99])))) == 1.0


@pytest.mark.parametrize("added", [False, True])
def test_the_part_and_the_rest_make_up_all_outputs(added):
    floor = 0.02 if added else 0.5
    region = Region(-60.0, added, floor=floor)
    x = np.linspace(-6.0, 6.0, 101)
    total = np.exp(region.log_share(PAIR, x)) + np.exp(region.log_rest(PAIR, x))
    np.testing.assert_allclose(total, 1.0, rtol=1e-14)
    losses = -PAIR.loss(x) if added else PAIR.loss(x)
    assert (np.exp(region.log_share(PAIR, x))[losses > 1.1 * floor] > 0.5).all()


@pytest.mark.parametrize("real", [-20.0, 3.0, 8.0])
def test_more_nodes_than_are_chosen_change_nothing(real):
    region = Region(-60.0, real < 0)
    x, step = quadrature.nodes(PAIR, real, 2.0, region)

    def integral(x, step):
        log_q = quadrature.log_density(PAIR, x) + region.log_kept(PAIR, x)
        w = real + 2.0j
        return (np.exp(log_q) * (np.exp(w * PAIR.loss(x)) - 1)).sum() * step

    low, high = x[0] - 3, x[-1] + 3
    fine = np.linspace(low, high, 40_001)
    expected = integral(fine, fine[1] - fine[0])
    margin = np.exp(-30) * special.logsumexp([0.0, abs(expected)])
    assert abs(integral(x, step) - expected) <= 1e-12 * abs(expected) + margin


def test_an_integrand_that_turns_too_often_is_refused():
    with pytest.raises(quadrature.TooManyNodesError):
        quadrature.nodes(PAIR, 3.0, 1e9, Region(-60.0, False))
