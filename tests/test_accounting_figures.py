"""Bounds as text are rounded up."""

from hypothesis import given
from hypothesis import strategies as st

from dpjax.accounting import figures


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_a_bound_is_never_rounded_down_and_hardly_up(value):
    text = figures.number_up(value)
    assert value <= float(text) or value > 1e308
    if 1e-300 < value < 1e300:
        assert float(text) <= value * 1.0011
