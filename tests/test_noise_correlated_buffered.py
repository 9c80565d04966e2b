import numpy as np
import pytest

from dpjax.noise.correlated import BufferedToeplitz


def test_coefficients_are_sums_of_powers():
    found = BufferedToeplitz((0.75, 0.5), (0.25, 0.125)).coefficients(6)
    powers = np.arange(5)
    expected = [1, *(0.25 * 0.75**powers + 0.125 * 0.5**powers)]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_one_buffer_without_decay_is_one_coefficient():
    assert list(BufferedToeplitz((0.0,), (0.5,)).coefficients(4)) == [1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("decays", "scales"),
    [
        ((1.0,), (0.5,)),
        ((1 - 1e-9,), (0.5,)),
        ((-0.1,), (0.5,)),
        ((0.5, 0.4), (0.5,)),
        ((0.5,), (np.inf,)),
    ],
)
def test_buffers_that_do_not_decay_are_refused(decays, scales):
    with pytest.raises(ValueError, match=r"decays|scales"):
        BufferedToeplitz(decays, scales)
