"""Exposure of secrets: the pins of another implementation, and its limits."""

import numpy as np
import pytest

from dpjax.auditing import exposure


@pytest.mark.parametrize(
    ("perplexity", "bits"),
    [(0.0, 4.0), (0.1, 4.0), (3.5, 2.0), (20.0, np.log2(16 / 17)), (1.0, 3.0)],
)
def test_interpolated_exposure_is_that_of_the_secret_sharer(perplexity, bits):
    assert exposure([perplexity], np.arange(1, 17))[0] == pytest.approx(bits)


def test_extrapolated_exposure_goes_on_where_references_end():
    rng = np.random.default_rng(0)
    references = rng.normal(10, 1, size=3000)
    secrets = np.array([10.0, 8.0, 4.0])
    ranked = exposure(secrets, references)
    fitted = exposure(secrets, references, method="extrapolation")
    np.testing.assert_allclose(fitted[:2], ranked[:2], atol=0.6)
    assert ranked[2] == pytest.approx(np.log2(3000))
    # P(N(10, 1) < 4) is 1e-9: 30 bits.
    assert 20 < fitted[2] < 45


def test_a_secret_that_was_not_seen_has_about_a_bit():
    rng = np.random.default_rng(1)
    bits = exposure(rng.normal(size=500), rng.normal(size=2000))
    assert bits.mean() == pytest.approx(1 / np.log(2), rel=0.1)


@pytest.mark.parametrize(
    ("secrets", "references", "options"),
    [
        ([], [1.0], {}),
        ([1.0], [], {}),
        ([np.nan], [1.0], {}),
        ([1.0], [np.inf, 1.0], {}),
        ([1.0], [1.0, 1.0], {"method": "extrapolation"}),
        ([1.0], [1.0], {"method": "guess"}),
    ],
)
def test_hostile_perplexities_are_refused(secrets, references, options):
    with pytest.raises(ValueError, match="Expected"):
        exposure(secrets, references, **options)
