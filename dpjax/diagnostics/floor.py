"""Where the noise of constant steps leaves the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpjax import _check
from dpjax.curvature import means


class NoiseFloor(NamedTuple):
    """The stationary state of noisy gradient descent on a quadratic loss.

    Attributes:
      variance: shaped like the eigenvalues, of the parameters along each eigenvector.
      excess_loss: scalar, expected loss above the minimum.
    """

    variance: jax.Array
    excess_loss: jax.Array


def noise_floor(
    eigenvalues: jax.Array,
    *,
    learning_rate: float | jax.Array,
    noise_std: float | jax.Array,
) -> NoiseFloor:
    """Return where noisy gradient descent on a quadratic loss comes to rest.

    Steps w <- w - eta (H w + s N(0, I)) forget where they began, and along an
    eigenvector of H with eigenvalue l they have in the end the variance
    eta s² / (l (2 - eta l)). The loss is then Σ eta s² / (2 - eta l) / 2 above its
    minimum: half of it goes with the learning rate, and most directions, the flat ones,
    pay the same for the noise.

    | eigenvalue          | variance | its share of the loss                 |
    | ------------------- | -------- | ------------------------------------- |
    | below 0             | infinite | infinite: the loss has no minimum     |
    | 0                   | infinite | 0: the noise walks off, at no loss    |
    | 2 / eta and above   | infinite | infinite: the steps do not converge   |

    Args:
      eigenvalues: of the Hessian, any shape, as from `curvature.top_eigenpairs`. Those
        of private data, taken without noise, cost what their own event says.
      learning_rate: eta > 0, of plain SGD.
      noise_std: s >= 0, of the noise in each entry of the mean gradient:
        noise_multiplier · sensitivity / divisor.

    Raises:
      ValueError: settings out of range.

    >>> floor = noise_floor(jnp.array([10.0, 3.0, 1.0, 0.5, 0.1]), learning_rate=0.05,
    ...                     noise_std=0.4)
    >>> round(float(floor.excess_loss), 5)
    0.01091
    """
    if not _check.is_traced(learning_rate):
        _check.positive("learning_rate", learning_rate)
    if not _check.is_traced(noise_std):
        _check.non_negative("noise_std", noise_std)
    values = means.widened(eigenvalues)
    room = 2 - learning_rate * values
    stable = (values >= 0) & (room > 0)
    power = learning_rate * jnp.square(noise_std)
    share = power / jnp.where(stable, room, 1)
    curved = stable & (values > 0)
    variance = share / jnp.where(curved, values, 1)
    excess = jnp.where(values == 0, 0, share / 2)
    return NoiseFloor(
        jnp.where(curved, variance, jnp.inf),
        jnp.sum(jnp.where(stable, excess, jnp.inf)),
    )
