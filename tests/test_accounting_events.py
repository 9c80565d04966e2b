"""Events taken apart."""

import math

import dp_accounting
import pytest
from accounting_cases import sampled

from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import NON_PRIVATE, take_apart

GAUSSIAN = dp_accounting.GaussianDpEvent
LAPLACE = dp_accounting.LaplaceDpEvent(1.0)
POISSON = dp_accounting.PoissonSampledDpEvent
COMPOSED = dp_accounting.ComposedDpEvent
REPEATED = dp_accounting.SelfComposedDpEvent


def test_counts_multiply_through_every_level_of_nesting():
    nested = REPEATED(COMPOSED([sampled(1.0, 0.1, 3), REPEATED(LAPLACE, 4)]), 5)
    assert take_apart(nested) == [(POISSON(0.1, GAUSSIAN(1.0)), 15), (LAPLACE, 20)]


def test_equal_events_are_counted_together():
    segments = [sampled(1.0, 0.1, 3), sampled(2.0, 0.1, 5), sampled(1.0, 0.1, 7)]
    counts = [count for _, count in take_apart(COMPOSED(segments))]
    assert counts == [10, 5]


def test_plain_gaussian_releases_become_one():
    # 4 releases at noise 2 and one at noise 1 have precision 4 / 4 + 1 = 2.
    [(event, count)] = take_apart(COMPOSED([REPEATED(GAUSSIAN(2.0), 4), GAUSSIAN(1.0)]))
    assert count == 1
    assert event.noise_multiplier == pytest.approx(math.sqrt(0.5), rel=1e-15)


def test_sampling_applies_to_all_releases_inside_it_at_once():
    inside = COMPOSED([GAUSSIAN(2.0), REPEATED(GAUSSIAN(2.0), 3)])
    assert take_apart(POISSON(0.1, inside)) == [(POISSON(0.1, GAUSSIAN(1.0)), 1)]


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.NoOpDpEvent(),
        COMPOSED([]),
        sampled(1.0, 0.1, 0),
        sampled(0.0, 0.1, 0),
        sampled(0.0, 0.0, 10),
        sampled(math.inf, 0.1, 10),
        REPEATED(dp_accounting.NonPrivateDpEvent(), 0),
    ],
)
def test_what_releases_nothing_leaves_nothing(event):
    assert take_apart(event) == []


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.NonPrivateDpEvent(),
        GAUSSIAN(0.0),
        GAUSSIAN(1e-200),
        sampled(0.0, 0.1),
        POISSON(0.1, dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_a_release_without_noise_is_not_private(event):
    assert take_apart(event) == [(NON_PRIVATE, 1)]


def test_sampling_everything_is_no_sampling():
    assert take_apart(sampled(2.0, 1.0, 4)) == [(GAUSSIAN(1.0), 1)]


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        ("gaussian", TypeError, r"Expected a dp_accounting\.DpEvent, got event='gauss"),
        (GAUSSIAN(-1.0), ValueError, "noise_multiplier=-1.0"),
        (GAUSSIAN(math.nan), ValueError, "noise_multiplier=nan"),
        (sampled(1.0, -0.1), ValueError, "sampling_probability=-0.1"),
        (sampled(1.0, 1.1), ValueError, r"\[0, 1\], got .*sampling_probability=1.1"),
        (sampled(1.0, math.nan), ValueError, "sampling_probability=nan"),
        (sampled(1.0, 0.1, -1), ValueError, "count=-1"),
        (sampled(1.0, 0.1, 1.5), TypeError, "count=1.5"),
    ],
)
def test_what_is_out_of_range_is_named(event, error, message):
    with pytest.raises(error, match=message):
        take_apart(event)


def test_sampling_a_mixture_of_mechanisms_is_refused():
    mixture = POISSON(0.1, COMPOSED([GAUSSIAN(1.0), LAPLACE]))
    with pytest.raises(AccountingError, match="inside of sampling"):
        take_apart(mixture)
