"""What a release costs beside training: the example run, through a ledger."""

import dp_accounting
import jax.numpy as jnp
import numpy as np
import pytest
from releases import quadratic

from dpjax import accounting, mechanism, release
from dpjax.curvature import MatVec, Private, Public, hessian, sources
from dpjax.curvature.readings import Reading

DELTA = 1e-5
RUN = mechanism.DPSGD(
    num_examples=100_000,
    expected_batch_size=1000,
    num_steps=1000,
    l2_norm_clip=1.0,
    noise_multiplier=1.1,
)
X = jnp.ones((4, 3))


def curvature_query():
    """Return one private trace at sigma = 4 of a fresh Poisson batch, q = 0.01."""
    return release.private_trace(
        quadratic,
        jnp.ones(3),
        Private(X),
        l2_norm_clip=12.0,
        noise_multiplier=4.0,
        key=0,
        expected_batch_size=1000,
        sampling_prob=0.01,
    )


def epsilon(ledger):
    return float(ledger.epsilon(DELTA, accountant="rdp"))


def agrees(measured, published):
    """Tell whether an epsilon is the published one, or a little tighter.

    The orders that are searched are all real ones, not those of a grid: 1.71171 is what
    the ledger says where dp_accounting says 1.71177.
    """
    return published - 1e-4 < measured < published + 5e-5


def test_example_run_costs_what_the_note_says():
    ledger = RUN.ledger()
    assert agrees(epsilon(ledger), 1.7118)
    for _ in range(20):
        ledger.spend(curvature_query().event, "curvature")
    assert agrees(epsilon(ledger), 1.7124)
    ledger.spend(sources.raw_event(Private(X)), "a raw look")
    assert epsilon(ledger) == np.inf


def test_library_of_events_gives_the_same_numbers():
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(RUN.event())
    assert round(accountant.get_epsilon(DELTA), 4) == 1.7118
    accountant.compose(curvature_query().event, 20)
    assert round(accountant.get_epsilon(DELTA), 4) == 1.7124
    accountant.compose(sources.raw_event(Private(X)))
    assert accountant.get_epsilon(DELTA) == np.inf


def test_event_of_an_unknown_source_is_refused_by_the_ledger():
    with pytest.raises(TypeError, match="event=None"):
        RUN.ledger().spend(MatVec(lambda vector: vector).event, "unknown")


def test_raw_curvature_of_private_data_makes_epsilon_infinite():
    ledger = RUN.ledger()
    public = hessian.hessian_operator(quadratic, jnp.ones(3), Public(X))
    ledger.spend(public.event, "public curvature")
    assert agrees(epsilon(ledger), 1.7118)
    raw = hessian.hessian_operator(quadratic, jnp.ones(3), Private(X))
    ledger.spend(Reading(raw(jnp.ones(3)), raw.event).event, "raw curvature")
    assert epsilon(ledger) == np.inf


def test_budget_stops_a_release_before_it_is_made():
    ledger = RUN.ledger(budget=accounting.Budget(1.8, DELTA))
    before = ledger.digest
    with pytest.raises(accounting.BudgetExceeded):
        ledger.spend(dp_accounting.GaussianDpEvent(1.0), "a loud statistic")
    assert ledger.digest == before
