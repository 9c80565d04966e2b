"""What the best run costs: the paper's bounds, dp_accounting's, and the exact law."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event, rdp
from scipy import special, stats

from dpjax import accounting
from dpjax.accounting import AccountingError
from dpjax.accounting.renyi import of_events
from dpjax.accounting.selection import (
    Repetitions,
    selection_divergences,
    selection_epsilon,
)

ADD = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
SHAPES = [0.0, 0.3, 1.0, 4.0, math.inf]
GAUSSIAN = dp_accounting.GaussianDpEvent(4.0)
DPSGD = dp_accounting.SelfComposedDpEvent(
    dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0)), 1000
)


def masses(runs, end=20_000):
    numbers = np.arange(0 if runs.shape == math.inf else 1, end)
    return numbers, np.exp(runs.log_mass(numbers))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.0, 1.01, 3.0, 40.0])
def test_numbers_of_runs_have_the_stated_mean(mean, shape):
    numbers, found = masses(Repetitions(mean, shape))
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert found @ numbers == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_masses_are_those_of_the_paper_s_definition(shape):
    runs = Repetitions(7.0, shape)
    gamma, k = runs.gamma, 5
    product = math.prod((shape + i) / (i + 1) for i in range(k))
    wanted = (1 - gamma) ** k / (gamma**-shape - 1) * product
    assert math.exp(runs.log_mass(np.array([k]))[0]) == pytest.approx(wanted, rel=1e-12)


def test_logarithmic_and_geometric_laws_are_scipy_s():
    k = np.arange(1, 50)
    runs = Repetitions(10.0, 0.0)
    wanted = stats.logser.logpmf(k, 1 - runs.gamma)
    np.testing.assert_allclose(runs.log_mass(k), wanted, rtol=1e-9)
    wanted = stats.geom.logpmf(k, 0.1)
    np.testing.assert_allclose(Repetitions(10.0, 1.0).log_mass(k), wanted, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_of_uniform_levels_are_draws(shape):
    runs = Repetitions(6.0, shape)
    levels = (np.arange(1000) + 0.5) / 1000
    drawn = np.array([runs.quantile(level) for level in levels])
    numbers, found = masses(runs, 12)
    shares = [(drawn == k).mean() for k in numbers]
    np.testing.assert_allclose(shares, found, atol=1e-3 + 1e-12)


def test_a_large_mean_is_drawn_too():
    levels = (np.arange(50) + 0.5) / 50
    drawn = [Repetitions(1e5, 1.0).quantile(level) for level in levels]
    np.testing.assert_allclose(drawn, stats.geom.ppf(levels, 1e-5), atol=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [2.0, 30.0])
def test_divergences_agree_with_dp_accounting(mean, shape):
    orders = 1 + np.geomspace(1e-3, 1e6, 361)  # Also those that its bounds look at.
    library = rdp.RdpAccountant(list(orders), ADD)
    library.compose(dp_event.RepeatAndSelectDpEvent(GAUSSIAN, mean, shape))
    ours = selection_divergences(GAUSSIAN, Repetitions(mean, shape), orders)
    theirs = np.minimum.accumulate(library.rdp[::-1])[::-1]
    np.testing.assert_allclose(ours[:300], theirs[:300], rtol=1e-6)


@pytest.mark.parametrize("event", [GAUSSIAN, DPSGD], ids=["gaussian", "dpsgd"])
@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
def test_epsilon_agrees_with_dp_accounting(event, shape):
    library = rdp.RdpAccountant(list(range(2, 200)), ADD)
    library.compose(dp_event.RepeatAndSelectDpEvent(event, 10.0, shape))
    theirs = library.get_epsilon(1e-5)
    found = selection_epsilon(event, 1e-5, repetitions=Repetitions(10.0, shape))
    assert 0.93 * theirs <= found <= theirs * 1.001  # We look at more orders.


def generating(runs, x):
    """Return E[x^K] and its derivative, in closed form."""
    if runs.shape == math.inf:
        value = np.exp(runs.mean * (x - 1))
        return value, runs.mean * value
    gamma, shape = runs.gamma, runs.shape
    left = 1 - (1 - gamma) * x
    if shape == 0:
        return np.log(left) / math.log(gamma), (1 - gamma) / left / -math.log(gamma)
    norm = gamma**-shape - 1
    slope = shape * (1 - gamma) * left ** (-shape - 1) / norm
    return (left**-shape - 1) / norm, slope


def true_divergence(runs, sigma, order):
    """Return the Renyi divergence of the largest of K normal scores, by quadrature."""

    def log_density(y, mean):
        inside = special.ndtr((y - mean) / sigma)
        return np.log(generating(runs, inside)[1]) + stats.norm.logpdf(y, mean, sigma)

    def divergence(p, q):
        y = np.linspace(-12 * sigma, 40 * sigma * max(1, order / 10), 40_001)
        logs = order * log_density(y, p) - (order - 1) * log_density(y, q)
        total = special.logsumexp(logs) + math.log(y[1] - y[0])
        if runs.shape == math.inf:
            total = np.logaddexp(total, -runs.mean)  # No run at all.
        return total / (order - 1)

    return max(divergence(0.0, 1.0), divergence(1.0, 0.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 10.0, 200.0])
@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_the_bound_holds_for_the_best_of_normal_scores(mean, shape, sigma):
    runs = Repetitions(mean, shape)
    event = dp_accounting.GaussianDpEvent(sigma)
    orders = np.array([1.5, 2.0, 5.0, 12.0])
    bounds = selection_divergences(event, runs, orders)
    exact = np.array([true_divergence(runs, sigma, order) for order in orders])
    assert np.all(exact <= bounds * (1 + 1e-9))
    # What one run costs is none of the search: the test can tell.
    if mean == 200.0:
        assert np.max(exact / (orders / (2 * sigma**2))) > 1.2


@pytest.mark.parametrize("shape", [0.0, 1.0, 2.5])
def test_pure_privacy_costs_two_plus_the_shape_times_itself(shape):
    # Theorem 2 at infinite orders: (2 + eta) epsilon (Liu and Talwar 2019: 3, for 1).
    event = dp_accounting.LaplaceDpEvent(10.0)
    found = selection_epsilon(event, 1e-9, repetitions=Repetitions(1e6, shape))
    assert (2 + shape) * 0.1 * 0.99 < found < (2 + shape) * 0.1 * 1.01


@pytest.mark.parametrize("shape", SHAPES)
def test_epsilon_grows_with_the_mean_from_that_of_a_single_run(shape):
    means = [1.0, 1.1, 2.0, 10.0, 100.0, 1000.0]
    found = [
        selection_epsilon(DPSGD, 1e-5, repetitions=Repetitions(mean, shape))
        for mean in means
    ]
    single = accounting.event_epsilon(DPSGD, 1e-5, accountant="rdp")
    assert found == sorted(found)
    assert found[0] >= single * (1 - 1e-9)
    if shape != math.inf:  # A Poisson law of mean 1 often has more than one run.
        assert found[0] == pytest.approx(single, rel=1e-3)
    # Ten honest runs, all released, cost more than keeping the best of about ten.
    ten = dp_accounting.SelfComposedDpEvent(DPSGD, 10)
    if shape <= 1.0:
        assert found[3] < accounting.event_epsilon(ten, 1e-5)


def test_a_run_without_noise_has_no_epsilon_and_an_empty_one_costs_nothing():
    runs = Repetitions(5.0)
    bare = dp_accounting.NonPrivateDpEvent()
    assert selection_epsilon(bare, 1e-5, repetitions=runs) == math.inf
    nothing = dp_accounting.NoOpDpEvent()
    assert selection_epsilon(nothing, 1e-5, repetitions=runs) == 0


def test_the_event_is_dp_accounting_s_and_a_ledger_records_it():
    event = Repetitions(12.5, math.inf).event(DPSGD)
    assert event == dp_event.RepeatAndSelectDpEvent(DPSGD, 12.5, math.inf)
    ledger = accounting.PrivacyLedger()
    ledger.spend(event, "tuning")
    again = accounting.PrivacyLedger.from_json(ledger.to_json(), digest=ledger.digest)
    assert again.entries[0].event == event


@pytest.mark.parametrize("shape", SHAPES)
def test_a_budget_is_spent_by_a_search_and_what_comes_with_it(shape):
    runs = Repetitions(10.0, shape)
    whole = selection_epsilon(DPSGD, 1e-5, repetitions=runs)
    for accountant in ("exact", "rdp"):
        found = accounting.event_epsilon(runs.event(DPSGD), 1e-5, accountant=accountant)
        assert found == pytest.approx(whole, rel=1e-3)
    ledger = accounting.PrivacyLedger(accounting.Budget(whole * 1.01, 1e-5))
    ledger.spend(runs.event(DPSGD), "search")
    with pytest.raises(accounting.BudgetExceeded):
        ledger.spend(GAUSSIAN, "statistics")
    both = dp_accounting.ComposedDpEvent([runs.event(DPSGD), GAUSSIAN])
    apart = whole + accounting.event_epsilon(GAUSSIAN, 1e-5)
    assert whole * 1.01 < accounting.event_epsilon(both, 1e-5) < apart
    twice = dp_accounting.SelfComposedDpEvent(runs.event(DPSGD), 2)
    assert whole * 1.2 < accounting.event_epsilon(twice, 1e-5) < 2 * whole


def test_a_search_of_bare_runs_costs_everything_and_one_of_nothing_is_free():
    runs = Repetitions(3.0)
    bare = runs.event(dp_accounting.NonPrivateDpEvent())
    assert accounting.event_epsilon(bare, 1e-5) == math.inf
    assert accounting.event_epsilon(runs.event(dp_accounting.NoOpDpEvent()), 1e-5) == 0


def test_what_has_no_renyi_account_is_refused():
    with pytest.raises(AccountingError):
        selection_epsilon(
            dp_accounting.UnsupportedDpEvent(), 1e-5, repetitions=Repetitions(2.0)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.9,), "mean"),
        ((math.inf,), "mean"),
        ((2.0, -0.1), "shape"),
        ((2.0, math.nan), "shape"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"Expected .*got {message}"):
        Repetitions(*arguments)


def test_poisson_runs_have_no_gamma_and_levels_are_inside_of_the_unit_interval():
    with pytest.raises(ValueError, match="finite shape"):
        _ = Repetitions(2.0, math.inf).gamma
    with pytest.raises(ValueError, match="level"):
        Repetitions(2.0).quantile(1.0)


def test_runs_that_differ_in_a_digit_are_not_taken_for_each_other():
    def found(events):
        run = dp_accounting.ComposedDpEvent(events)
        event = dp_accounting.dp_event.RepeatAndSelectDpEvent(run, 3.0, 1.0)
        return accounting.event_epsilon(event, 1e-5, accountant="rdp")

    noises = [1.0, np.nextafter(1.0, 2.0), 1.0 + 1e-9, 2.0]
    epsilons = [found([dp_accounting.GaussianDpEvent(noise)]) for noise in noises]
    assert epsilons[0] >= epsilons[1] > epsilons[2] > epsilons[3]
    counts = [np.full(3000, 1.0) for _ in range(2)]
    counts[1][1500] += 1e-12
    trees = [dp_accounting.SingleEpochTreeAggregationDpEvent(1.0, c) for c in counts]
    runs = [of_events._Run([(tree, 1)], ADD) for tree in trees]
    assert runs[0] != runs[1]
    assert runs[0] == of_events._Run(runs[0].parts, runs[0].relation)
