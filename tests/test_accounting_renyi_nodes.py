"""Where to evaluate the integrand of a Renyi divergence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting.renyi import nodes, sampled_gaussian

KINDS = ["remove", "add", "replace"]


def laws(noise, rate, order, what):
    arrays = (np.array([value]) for value in (noise, rate, order))
    return nodes.Laws(*arrays, what)


def log_moment(chosen, low, high, step):
    """log(E_P e^(c L) - 1) by the trapezoid rule between two ends."""
    owner, x = nodes.lattice(np.array([[low]]), np.array([[high]]), step)
    loss, log_density = chosen.take(owner).loss_and_log_density(x)
    power = chosen.order - 1
    terms = log_density + np.logaddexp(
        sampled_gaussian.log_phi(power * loss),
        np.log(power) + sampled_gaussian.log_phi(-loss),
    )
    return terms.max() + np.log(np.exp(terms - terms.max()).sum() * step[0])


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("rate", [1e-6, 0.1, 0.95])
@pytest.mark.parametrize("order", [1.01, 2.5, 40.0])
def test_nothing_outside_of_the_windows_or_between_the_points_is_missed(
    noise, rate, order, what
):
    chosen = laws(noise, rate, order, what)
    value = float(sampled_gaussian._log_moments(chosen)[0])
    _, _, step = nodes.windows(chosen, sampled_gaussian._log_integrand)
    reach = 1 + 15 * noise
    whole = log_moment(chosen, -order - reach, 2 * order + reach, step / 3)
    assert value == pytest.approx(np.logaddexp(0, whole), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize("what", KINDS)
@given(
    noise=st.floats(0.01, 1e5),
    rate=st.floats(1e-12, 1 - 1e-12),
    power=st.floats(-3, 6).map(lambda exponent: 10**exponent),
)
def test_windows_are_in_order_do_not_overlap_and_hold_few_points(
    what, noise, rate, power
):
    chosen = laws(noise, rate, 1 + power, what)
    low, high, step = nodes.windows(chosen, sampled_gaussian._log_integrand)
    owner, x = nodes.lattice(low, high, step)
    assert np.all(np.diff(x) > 0)
    assert np.all(owner == 0)
    assert nodes.sizes(low, high, step)[0] == x.size
    assert 10 < x.size < 20_000


def test_points_are_multiples_of_the_step_of_their_law():
    low, high = np.array([[0.0, 1.0], [5.0, 9.0]]), np.array([[1.0, 1.6], [5.0, 9.1]])
    owner, x = nodes.lattice(low, high, np.array([0.5, 3.0]))
    assert owner.tolist() == [0, 0, 0, 0, 1]
    assert x.tolist() == [0.0, 0.5, 1.0, 1.5, 9.0]


@pytest.mark.parametrize(
    ("rate", "exponent", "expected"),
    [
        (0.5, 0.0, 0.0),
        (1e-20, 1.0, 1.718281828459045e-20),  # q (e - 1).
        (1 - 2**-50, -800.0, np.log(2**-50)),  # log(1 - q).
        (1e-3, 2000.0, 2000 + np.log(1e-3)),
    ],
)
def test_log_mixture_keeps_its_digits(rate, exponent, expected):
    value = nodes.log_mixture(np.array(rate), np.array(exponent))
    assert value == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("order", [1.5, 30.0, 1e5])
@pytest.mark.parametrize("noise", [0.3, 3.0, 100.0])
def test_the_far_maximum_is_where_the_derivative_changes_its_sign(noise, order):
    chosen = laws(noise, 0.9, order, "replace")
    (far,) = chosen.far()
    ahead = (order - 1) * chosen.share(-chosen.far())[0]
    assert far == pytest.approx(order + ahead, rel=1e-9)
