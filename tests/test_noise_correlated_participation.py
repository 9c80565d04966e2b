import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.noise.correlated import ONCE, Cyclic, MinSeparation, OncePerEpoch


def patterns(participation, steps):
    """List all patterns from their definition, those that others contain among them."""
    if isinstance(participation, Cyclic):
        period = participation.period
        return [list(range(j, steps, period)) for j in range(min(period, steps))]
    if isinstance(participation, OncePerEpoch):
        epochs = [
            range(start, min(start + participation.period, steps))
            for start in range(0, steps, participation.period)
        ]
        return [list(chosen) for chosen in itertools.product(*epochs)]
    most = participation.max_participations or steps
    return [
        list(chosen)
        for size in range(1, min(most, steps) + 1)
        for chosen in itertools.combinations(range(steps), size)
        if all(
            b - a >= participation.steps_apart for a, b in itertools.pairwise(chosen)
        )
    ]


PARTICIPATIONS = st.one_of(
    st.builds(Cyclic, st.integers(1, 5)),
    st.builds(OncePerEpoch, st.integers(1, 5)),
    st.builds(MinSeparation, st.integers(1, 5), st.none() | st.integers(1, 4)),
)


@given(PARTICIPATIONS, st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_the_best_sum_is_that_of_the_best_pattern(participation, values):
    values = np.array(values)
    expected = max(values[p].sum() for p in patterns(participation, len(values)))
    assert participation.best(values) == pytest.approx(expected, abs=1e-12)


@given(PARTICIPATIONS, st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_the_best_pairs_are_bounded_and_exact_where_said(participation, steps, seed):
    values = np.random.default_rng(seed).uniform(size=(steps, steps))
    values = values + values.T
    sums = [values[np.ix_(p, p)].sum() for p in patterns(participation, steps)]
    bound, exact = participation.best_pairs(values)
    assert bound >= max(sums) - 1e-12
    if exact:
        assert bound == pytest.approx(max(sums))


@given(PARTICIPATIONS, st.integers(1, 9))
def test_separation_and_count_are_those_of_the_patterns(participation, steps):
    listed = patterns(participation, steps)
    assert participation.count(steps) == max(map(len, listed))
    for length in range(1, steps + 1):
        windows = (range(j, j + length) for j in range(steps))
        inside = max(len({*p} & {*w}) for w in windows for p in listed)
        assert participation.within(length) >= inside
    gaps = [b - a for p in listed for a, b in itertools.pairwise(p)]
    assert all(gap >= participation.separation(steps) for gap in gaps)


def test_one_participation_is_as_separate_as_can_be():
    assert ONCE.count(10) == 1
    assert ONCE.separation(10) == 10


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_what_is_no_number_of_steps_is_refused(value):
    for kind in (Cyclic, OncePerEpoch, MinSeparation, lambda k: MinSeparation(1, k)):
        with pytest.raises((ValueError, TypeError), match="Expected an integer"):
            kind(value)
