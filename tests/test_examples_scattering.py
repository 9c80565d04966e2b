"""Tests of `examples/scattering.py`, by the properties that define the transform."""

import data
import numpy as np
import pytest
import scattering


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k").test_x[::100]


@pytest.fixture(scope="module")
def coefficients(digits):
    return scattering.scatter(digits)


def padded(images: np.ndarray, margin: int = 4) -> np.ndarray:
    sides = ((0, 0), (margin, margin), (margin, margin))
    return np.pad(images[..., 0].astype(np.float64), sides, mode="reflect")


def norms(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


# --- The filters ---------------------------------------------------------------------


def littlewood_paley(bank: scattering.FilterBank) -> np.ndarray:
    wavelets = bank.wavelets.reshape(-1, *bank.lowpass.shape)
    opposite = np.roll(wavelets[:, ::-1, ::-1], 1, axis=(1, 2))
    return bank.lowpass**2 + (wavelets**2 + opposite**2).sum(0) / 2


@pytest.mark.parametrize("size", [16, 36, 40])
def test_filters_are_a_frame_with_upper_bound_one(size):
    total = littlewood_paley(scattering.filter_bank(size))
    assert total.max() <= 1 + 1e-6
    # Nothing is lost wholly: what the corners keep is the smallest.
    assert total.min() > 0.1


def test_wavelets_have_mean_zero_and_the_lowpass_has_mean_one():
    bank = scattering.filter_bank(36)
    assert np.abs(bank.wavelets[..., 0, 0]).max() < 1e-15
    np.testing.assert_allclose(bank.lowpass[0, 0], 1, rtol=1e-6)


def test_filters_are_those_of_their_formula_in_space():
    # psi(u) = g(u) (exp(i xi u) - K), summed over periods; here for scale 1, angle 5.
    size, sigma, frequency, slant = 36, 1.6, 3 * np.pi / 8, 0.5
    angle = (3 - 5) * np.pi / 8
    pixel = np.arange(-3 * size, 3 * size)
    row, column = np.meshgrid(pixel, pixel, indexing="ij")
    along = row * np.cos(angle) + column * np.sin(angle)
    across = column * np.cos(angle) - row * np.sin(angle)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    envelope /= 2 * np.pi * sigma**2 / slant
    wave = envelope * np.exp(1j * frequency * along)
    wavelet = wave - wave.sum() / envelope.sum() * envelope
    periodic = wavelet.reshape(6, size, 6, size).sum((0, 2))
    found = scattering.filter_bank(size).wavelets[1, 5]
    np.testing.assert_allclose(found, np.fft.fft2(periodic), atol=1e-9)


# --- The transform -------------------------------------------------------------------


def test_28_by_28_image_has_81_channels_of_7_by_7(digits, coefficients):
    assert coefficients.shape == (len(digits), 7, 7, 81)
    assert coefficients.dtype == np.float32
    assert scattering.num_channels() == 1 + 2 * 8 + 8 * 8


def test_coefficients_are_the_cascade_of_their_definition(digits, coefficients):
    """Compare with convolutions on all pixels, in float64, decimated at the end.

    The library decimates on the way, where the spectrum is nearly empty: what aliases
    is a few thousandths of the largest coefficient.
    """
    bank, image = scattering.filter_bank(36), padded(digits[:3])

    def convolve(x, filters):
        return np.fft.ifft2(np.fft.fft2(x)[..., None, :, :] * filters)

    first = [np.abs(convolve(image, bank.wavelets[scale])) for scale in (0, 1)]
    second = np.abs(convolve(first[0], bank.wavelets[1]))
    layers = [image[:, None], *first, second.reshape(3, 64, 36, 36)]
    spectrum = np.fft.fft2(np.concatenate(layers, axis=1)) * bank.lowpass
    expected = np.moveaxis(np.fft.ifft2(spectrum).real[..., 4:-4:4, 4:-4:4], 1, -1)
    found = coefficients[:3]
    np.testing.assert_allclose(found[..., :9], expected[..., :9], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=4e-3)
    assert norms(found - expected).max() < 2e-2 * norms(expected).min()


def test_constant_image_has_only_its_blur():
    found = scattering.scatter(np.full((1, 16, 16, 1), 3.0))
    np.testing.assert_allclose(found[..., 0], 3, rtol=1e-5)
    np.testing.assert_allclose(found[..., 1:], 0, atol=1e-5)


def test_transform_is_homogeneous_and_blind_to_sign_beyond_order_zero(digits):
    found = scattering.scatter(-2 * digits[:2])
    expected = 2 * scattering.scatter(digits[:2])
    np.testing.assert_allclose(found[..., 0], -expected[..., 0], atol=1e-5)
    np.testing.assert_allclose(found[..., 1:], expected[..., 1:], atol=1e-5)


def test_transposed_image_has_transposed_coefficients_of_mirrored_angles(
    digits, coefficients
):
    # Wavelet l has the angle (3 - l) pi / 8; mirrored, pi / 2 less that: l' = 2 - l.
    mirror = (2 - np.arange(8)) % 8
    order = [0, *(1 + mirror), *(9 + mirror)]
    order += [17 + 8 * one + two for one in mirror for two in mirror]
    found = scattering.scatter(digits.transpose(0, 2, 1, 3))
    expected = coefficients.transpose(0, 2, 1, 3)[..., order]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transform_is_non_expansive(digits, coefficients):
    # Each coefficient stands for 4 x 4 pixels, hence the factor 4 on its norm.
    difference = padded(digits[1:]) - padded(digits[:-1])
    moved = 4 * norms(coefficients[1:] - coefficients[:-1])
    assert (moved <= norms(difference)).all()


def test_second_order_holds_less_energy_than_the_first_and_the_sum_most(
    digits, coefficients
):
    image = norms(digits) ** 2
    orders = [
        16 * norms(coefficients[..., part]) ** 2 / image
        for part in (slice(0, 1), slice(1, 17), slice(17, 81))
    ]
    assert (orders[2] < orders[1]).all()
    assert (sum(orders) < 1).all()
    assert sum(orders).mean() > 0.5


@pytest.mark.parametrize("axis", [1, 2])
def test_shift_by_a_pixel_moves_coefficients_less_than_pixels(
    digits, coefficients, axis
):
    shifted = np.roll(digits, 1, axis)  # the borders of digits are blank
    moved = norms(scattering.scatter(shifted) - coefficients) / norms(coefficients)
    pixels = norms(shifted - digits) / norms(digits)
    assert (moved < 0.65 * pixels).all()


def test_shift_by_the_scale_moves_coefficients_by_one_position():
    image = np.zeros((1, 48, 48, 1))
    image[:, 16:28, 16:28] = np.random.default_rng(0).random((1, 12, 12, 1))
    found = scattering.scatter(np.roll(image, 4, axis=1))
    expected = np.roll(scattering.scatter(image), 1, axis=1)
    # The tails of the filters reach the borders, where shifts are not circular.
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.max() > 0.4


def test_small_deformation_moves_coefficients_less_than_pixels(digits, coefficients):
    # Bilinear warp: u -> u + a sin(u / 4), at most half a pixel.
    position = np.arange(28) + 0.5 * np.sin(np.arange(28) / 4)
    low = np.clip(np.floor(position).astype(int), 0, 26)
    weight = (position - low)[None, :, None, None]
    warped = (1 - weight) * digits[:, low] + weight * digits[:, low + 1]
    moved = norms(scattering.scatter(warped) - coefficients) / norms(coefficients)
    pixels = norms(warped - digits) / norms(digits)
    assert (moved < 0.7 * pixels).all()


def test_image_has_the_same_bits_alone_and_in_any_batch(digits, coefficients):
    np.testing.assert_array_equal(scattering.scatter(digits[3:4])[0], coefficients[3])
    many = np.concatenate([np.repeat(digits[:1], 133, axis=0), digits])
    np.testing.assert_array_equal(
        scattering.scatter(many)[133:].view(np.uint32), coefficients.view(np.uint32)
    )


def test_other_scales_and_angles_have_their_channels():
    images = np.random.default_rng(0).random((2, 32, 32, 1))
    assert scattering.scatter(images, scales=3, angles=4).shape == (2, 4, 4, 61)
    assert scattering.scatter(images, scales=1, angles=2).shape == (2, 16, 16, 3)
    assert scattering.scatter(images[:0]).shape == (0, 8, 8, 81)


def test_scattered_data_set_keeps_labels_and_says_so(digits):
    labels = np.arange(10, dtype=np.int32)
    raw = data.Dataset("digits", "here", digits, labels, digits[:5], labels[:5], 10)
    found = scattering.scatter_dataset(raw)
    assert found.train_x.shape == (10, 7, 7, 81)
    assert found.test_x.shape == (5, 7, 7, 81)
    assert found.train_y is raw.train_y
    assert found.source == "here, scattering transform of 2 scales and 8 angles"
    assert found.fingerprint != raw.fingerprint


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((2, 28, 28), {}, r"got images.shape=\(2, 28, 28\)"),
        ((2, 28, 24, 1), {}, "got images.shape="),
        ((2, 28, 28, 3), {}, "got images.shape="),
        ((2, 30, 30, 1), {}, "multiple of 4, at least 8, got side=30"),
        ((2, 4, 4, 1), {}, "got side=4"),
        ((2, 28, 28, 1), {"scales": 0}, "got scales=0"),
        ((2, 28, 28, 1), {"angles": 3}, "even integer >= 2, got angles=3"),
    ],
)
def test_what_cannot_be_scattered_is_refused(shape, options, expected):
    with pytest.raises(ValueError, match=expected):
        scattering.scatter(np.zeros(shape), **options)
