"""Numbers that are quoted, and that promise nothing."""

import pytest

from dpjax.accounting import Epsilon
from dpjax.mechanism import NotAGuarantee

QUOTED = NotAGuarantee(Epsilon(0.47071), 1e-6, "batches were Poisson samples")


def test_it_says_so_and_rounds_up():
    assert str(QUOTED) == (
        "epsilon 0.4708 at delta 1e-06 if batches were Poisson samples: not a guarantee"
    )


@pytest.mark.parametrize("use", [float, lambda quoted: quoted <= 1.0, round])
def test_it_cannot_be_taken_for_a_number(use):
    with pytest.raises(TypeError):
        use(QUOTED)
