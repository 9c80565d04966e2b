r"""The wavelet scattering transform of images: fixed features that cost no privacy.

A scattering transform cascades wavelet convolutions and moduli and blurs the result:

    S0 = x * phi
    S1 = |x * psi_1| * phi
    S2 = ||x * psi_1| * psi_2| * phi        (psi_2 coarser than psi_1)

`phi` is a Gaussian of scale 2^J, the `psi` are Morlet wavelets of J scales and L
angles. All of them are fixed by the formulas below, nothing is learnt from or scaled by
any example, and each image is transformed on its own: the transform is part of the
public description of the model, so training on its output has the guarantee of training
on the images. With J = 2 and L = 8 an image of 28 x 28 becomes 81 channels of 7 x 7.

References:
    Bruna, Mallat, "Invariant Scattering Convolution Networks", IEEE Transactions on
        Pattern Analysis and Machine Intelligence 2013: the transform, the filters.
    Andreux et al., "Kymatio: Scattering Transforms in Python", JMLR 2020: the widths
        and frequencies in pixels, with which these coefficients agree to 3e-5.
    Tramer, Boneh, "Differentially Private Learning Needs Better Features (or Much More
        Data)", ICLR 2021: scattering features under differential privacy.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from data import Dataset

_CHUNK = 128
_VECTOR = 16
_ALIASES = 2 * np.pi * np.arange(-3, 4)
_SIGMA = 0.8  # width of the finest envelope, pixels
_FREQUENCY = 3 * np.pi / 4  # centre of the finest wavelets, radians a pixel


class FilterBank(NamedTuple):
    """Filters in the Fourier domain, real and periodic, frequency 0 first.

    Attributes:
        lowpass: The Gaussian `phi`, `(size, size)`, 1 at frequency 0.
        wavelets: The Morlet `psi`, `(scales, angles, size, size)`, 0 at frequency 0.
    """

    lowpass: np.ndarray
    wavelets: np.ndarray


def filter_bank(size: int, *, scales: int = 2, angles: int = 8) -> FilterBank:
    r"""Return the filters for periodic images of `size` x `size` pixels, in float64.

    A Morlet wavelet is a wave under a Gaussian envelope, less as much envelope as makes
    its mean zero. With `G` the Fourier transform of the envelope, of width
    `0.8 * 2**j` pixels along the wave and `angles / 4` times that across it,

        psi(w) = G(w - xi) - G(-xi) / G(0) * G(w),    |xi| = 3 pi / 4 * 2**-j,

    which is summed over the aliases `w + 2 pi k`, as sampling on pixels demands.

    Guarantee:
        `|phi|^2 + 1/2 sum (|psi(w)|^2 + |psi(-w)|^2) <= 1` at every frequency for 2
        scales and 8 angles (Littlewood-Paley): the transform of real images is
        non-expansive, but for what decimation folds back.
    """
    lowpass = _gaussian(size, 0.0, _SIGMA * 2 ** (scales - 1), 0.0, 1.0)
    wavelets = np.empty((scales, angles, size, size))
    for scale in range(scales):
        for index in range(angles):
            angle = (angles - angles // 2 - 1 - index) * np.pi / angles
            shape = _SIGMA * 2**scale, angle, 4 / angles
            wave = _gaussian(size, _FREQUENCY / 2**scale, *shape)
            envelope = _gaussian(size, 0.0, *shape)
            mean = wave[0, 0] / envelope[0, 0]
            wavelets[scale, index] = wave - mean * envelope
    return FilterBank(lowpass, wavelets)


def _gaussian(
    size: int, centre: float, sigma: float, angle: float, slant: float
) -> np.ndarray:
    # The transform of a periodised Gaussian is a Gaussian summed over its aliases.
    frequency = 2 * np.pi * np.arange(size)[:, None] / size + _ALIASES
    row, column = frequency[:, None, :, None], frequency[None, :, None, :]
    along = row * np.cos(angle) + column * np.sin(angle) - centre
    across = column * np.cos(angle) - row * np.sin(angle)
    exponent = sigma**2 * (along**2 + (across / slant) ** 2) / 2
    return np.exp(-exponent).sum((2, 3))


def num_channels(scales: int = 2, angles: int = 8) -> int:
    """Return the number of coefficients a position: orders 0, 1 and 2 together."""
    return 1 + scales * angles + scales * (scales - 1) // 2 * angles**2


def scatter(images: np.ndarray, *, scales: int = 2, angles: int = 8) -> np.ndarray:
    """Return the scattering coefficients of orders 0, 1 and 2.

    Args:
        images: `(examples, side, side, 1)`, real; `side` a multiple of `2**scales`.
            Borders are continued by reflection.
        scales: J; the output is blurred over, and sampled every, `2**scales` pixels.
        angles: L; an even number.

    Returns:
        `(examples, side / 2**scales, side / 2**scales, num_channels(scales, angles))`
        float32. Channels: the blur; then (scale, angle); then (scale 1, scale 2,
        angle 1, angle 2). A pure function of each image: neither its neighbours nor the
        number of threads change a bit of it.

    Raises:
        ValueError: If the shape or an option is not as above.
    """
    side = _side(images, scales, angles)
    step = 2**scales
    out = np.empty(
        (len(images), side // step, side // step, num_channels(scales, angles)),
        np.float32,
    )
    _fill(out, images[..., 0], _compiled(side, scales, angles))
    return out


def _side(images: np.ndarray, scales: int, angles: int) -> int:
    if scales < 1:
        raise ValueError(f"Expected an integer >= 1, got scales={scales!r}.")
    if angles < 2 or angles % 2:
        raise ValueError(f"Expected an even integer >= 2, got angles={angles!r}.")
    shape, step = np.shape(images), 2**scales
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 1:
        raise ValueError(
            f"Expected images (examples, side, side, 1), got images.shape={shape}."
        )
    if shape[1] % step or shape[1] < 2 * step:
        raise ValueError(
            f"Expected a multiple of {step}, at least {2 * step}, got side={shape[1]}."
        )
    return shape[1]


def scatter_dataset(dataset: Dataset) -> Dataset:
    """Return the data set with each image replaced by its coefficients."""
    return dataclasses.replace(
        dataset,
        source=f"{dataset.source}, scattering transform of 2 scales and 8 angles",
        train_x=scatter(dataset.train_x),
        test_x=scatter(dataset.test_x),
    )


def _fill(
    out: np.ndarray, images: np.ndarray, transform: Callable[[np.ndarray], jax.Array]
) -> None:
    def run(start: int) -> None:
        part = images[start : start + _CHUNK]
        padding = ((0, _CHUNK - len(part)), (0, 0), (0, 0))
        chunk = np.pad(np.asarray(part, np.float32), padding)
        out[start : start + _CHUNK] = np.asarray(transform(chunk))[: len(part)]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, range(0, len(images), _CHUNK)))


@functools.cache
def _compiled(side: int, scales: int, angles: int) -> Callable[[np.ndarray], jax.Array]:
    step = 2**scales
    bank = filter_bank(side + 2 * step, scales=scales, angles=angles)
    one = functools.partial(_scatter_one, bank=bank)
    return jax.jit(functools.partial(jax.lax.map, one, batch_size=_VECTOR))


def _scatter_one(image: jax.Array, bank: FilterBank) -> jax.Array:
    scales = len(bank.wavelets)
    padded = jnp.pad(image, 2**scales, mode="reflect")
    spectrum = jnp.fft.fft2(padded)
    first, second = [], []
    for fine in range(scales):
        waves = _modulus(spectrum, bank.wavelets[fine], 2**fine)
        first.append(_blur(waves, bank, fine))
        spectra = jnp.fft.fft2(waves)[:, None]
        for coarse in range(fine + 1, scales):
            wavelets = _at_resolution(bank.wavelets[coarse], fine)
            pairs = _modulus(spectra, wavelets, 2 ** (coarse - fine))
            second.append(_blur(pairs.reshape(-1, *pairs.shape[2:]), bank, coarse))
    zeroth = _blur(padded[None], bank, 0)
    return jnp.moveaxis(jnp.concatenate([zeroth, *first, *second]), 0, -1)


def _modulus(spectrum: jax.Array, wavelets: np.ndarray, step: int) -> jax.Array:
    # Keeping every step-th pixel adds up the aliases of the spectrum.
    product = spectrum * wavelets.astype(np.float32)
    size = product.shape[-1] // step
    aliases = product.reshape(*product.shape[:-2], step, size, step, size)
    waves = jnp.fft.ifft2(aliases.mean((-4, -2)))
    return jnp.sqrt(waves.real**2 + waves.imag**2)


def _at_resolution(filters: np.ndarray, log2_step: int) -> np.ndarray:
    # The frequencies that remain when every 2**log2_step-th pixel is kept.
    size = filters.shape[-1]
    half = size // 2 ** (log2_step + 1)
    kept = np.r_[0:half, size - half : size]
    return filters[..., kept[:, None], kept]


def _blur(waves: jax.Array, bank: FilterBank, log2_step: int) -> jax.Array:
    # phi is a product of a row and a column: blur, decimate and crop are two matmuls.
    scales = len(bank.wavelets)
    lowpass = _at_resolution(bank.lowpass, log2_step)[0]
    fourier = np.fft.fft(np.eye(len(lowpass)), axis=0)
    blurred = np.fft.ifft(lowpass[:, None] * fourier, axis=0).real
    matrix = blurred[:: 2 ** (scales - log2_step)][1:-1].astype(np.float32)
    return jnp.einsum("am,pmn,bn->pab", matrix, waves, matrix, precision="highest")
