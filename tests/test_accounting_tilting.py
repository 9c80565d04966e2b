"""Tilted quadrature rules: one tilt, and many at a time."""

import numpy as np
import pytest

from dpjax.accounting.laws import tilting


@pytest.mark.parametrize("laws", [1, 3])
@pytest.mark.parametrize("block", [1, 50, 2**18])
def test_many_tilts_are_each_of_them(monkeypatch, laws, block):
    monkeypatch.setattr(tilting, "_BLOCK", block)
    rng = np.random.default_rng(0)
    losses, logs = rng.normal(size=(2, laws, 40))
    counts, tilts = np.arange(1.0, laws + 1), np.array([-2.0, 0.0, 0.5, 900.0])
    found = tilting.log_moments(losses, logs, counts, tilts)
    each = [tilting.cumulants(losses, logs, counts, t)[0] for t in tilts]
    np.testing.assert_allclose(found, each, rtol=1e-13)


def test_cumulants_are_those_of_a_coin():
    losses, logs = np.array([[1.0, -1.0]]), np.log([[0.5, 0.5]])
    value, mean, spread = tilting.cumulants(losses, logs, np.array([3.0]), 0.7)
    assert value == pytest.approx(3 * np.log(np.cosh(0.7)))
    assert mean == pytest.approx(3 * np.tanh(0.7))
    assert spread == pytest.approx(3 / np.cosh(0.7) ** 2)


def test_no_law_has_no_loss():
    none = np.zeros((0, 5))
    found = tilting.log_moments(none, none, np.zeros(0), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(found, [0.0, 0.0])
