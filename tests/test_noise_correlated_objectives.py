import numpy as np
import pytest
from scipy import optimize

from dpjax.noise import correlated
from dpjax.noise.correlated import (
    ONCE,
    Cyclic,
    MinSeparation,
    max_error,
    objectives,
    rmse,
    workload,
)

STEPS = 20


def assert_gradient(loss, point):
    numeric = optimize.approx_fprime(point, lambda x: loss(x)[0], 1e-7)
    np.testing.assert_allclose(loss(point)[1], numeric, atol=1e-5)


@pytest.mark.parametrize("error", [rmse, max_error])
@pytest.mark.parametrize(
    "participation", [ONCE, Cyclic(6), MinSeparation(3, 4)], ids=str
)
def test_the_toeplitz_loss_is_twice_the_log_of_the_error(participation, error):
    column = workload(STEPS, momentum=0.5)
    strategy = correlated.Toeplitz(tuple(np.linspace(1.0, 0.125, STEPS)))
    loss = objectives.toeplitz_loss(STEPS, participation, column, error)
    value, _ = loss(strategy.coefficients(STEPS))
    expected = error(strategy, STEPS, participation, workload=column)
    # The loss of the mean leaves nothing out: sum of weights times squares.
    assert np.exp(value / 2) == pytest.approx(expected)
    assert_gradient(loss, np.linspace(1.0, 0.2, STEPS))


@pytest.mark.parametrize("bands", [1, 2, 5, 9])
def test_the_banded_loss_is_the_log_of_the_squared_error(bands):
    parameters = np.random.default_rng(0).normal(size=9 * (bands - 1)) / 3
    loss = objectives.banded_loss(9, bands, np.ones(9))
    columns = objectives.normalised(parameters, 9, bands)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1)
    factor = np.tri(9) @ np.linalg.inv(objectives.from_columns(columns))
    assert loss(parameters)[0] == pytest.approx(np.log(np.sum(factor**2)))
    assert_gradient(loss, parameters)


def test_another_error_is_refused():
    with pytest.raises(ValueError, match="rmse or max_error"):
        objectives.toeplitz_loss(3, ONCE, np.ones(3), max)


def test_the_least_of_a_parabola_is_found():
    def loss(x):
        return float(np.sum((x - 2) ** 2)), 2 * (x - 2)

    np.testing.assert_allclose(objectives.minimised(loss, np.zeros(3)), 2)
    np.testing.assert_allclose(objectives.minimised(loss, np.zeros(3), (0, 1)), 1)
