"""Private optimizers: a private average, then any optax optimizer."""

from typing import Any

import optax

from dpjax.optimizers.aggregate import differentially_private_aggregate
from dpjax.optimizers.settings import Number
from dpjax.types import KeyLike


def privatize(
    optimizer: optax.GradientTransformation,
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    *,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
    max_copies: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Make any optax optimizer private: it sees the noised average and nothing else.

    `optax.masked`, `optax.multi_transform`, schedules and accumulation of updates
    (`optax.MultiSteps`) belong inside, as `optimizer`.

    Args:
      optimizer: an optax optimizer for ordinary gradients.
      l2_norm_clip: see `differentially_private_aggregate`, as for all that follow.
      noise_multiplier: noise standard deviation over sensitivity, >= 0.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      expected_batch_size: the public divisor.
      sampling_prob: probability of Poisson sampling, for the accounting.
      max_copies: how often one example may come in a batch, for the accounting.

    Returns:
      An optax optimizer whose `update` takes per-example gradients, a `ClippedGrads`,
      or `None` with `loss_fn=` and `batch=`.

    Guarantee:
      That of `differentially_private_aggregate`; the optimizer is post-processing. It
      is given the further arguments of `update` too (`value=`, `value_fn=`, ...): what
      is in them must be public, or it is not protected.
    """
    private = differentially_private_aggregate(
        l2_norm_clip,
        noise_multiplier,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        max_copies=max_copies,
    )
    return optax.chain(private, optimizer)


def dpsgd(
    learning_rate: optax.ScalarOrSchedule,
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    momentum: Number | None = None,
    nesterov: bool = False,
    *,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
    seed: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return DP-SGD, with the arguments of `optax.contrib.dpsgd` in their places.

    Args:
      learning_rate: a number or an optax schedule.
      l2_norm_clip: see `differentially_private_aggregate`.
      noise_multiplier: noise standard deviation over sensitivity, >= 0.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      momentum: decay of the momentum; `None` for none.
      nesterov: whether the momentum is Nesterov's.
      expected_batch_size: the public divisor.
      sampling_prob: probability of Poisson sampling, for the accounting.
      seed: optax's old keyword for an integer key.

    Guarantee:
      That of `differentially_private_aggregate`.

    References:
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.

    >>> import jax.numpy as jnp
    >>> optimizer = dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.0, key=0)
    >>> params = jnp.zeros(2)
    >>> per_example = jnp.array([[3., 4.], [0., 0.]])
    >>> updates, _ = optimizer.update(per_example, optimizer.init(params), params)
    >>> [round(float(u), 4) for u in updates]
    [-0.03, -0.04]
    """
    private = differentially_private_aggregate(
        l2_norm_clip,
        noise_multiplier,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
        seed=seed,
    )
    trace = optax.identity() if momentum is None else optax.trace(momentum, nesterov)
    return optax.chain(private, trace, optax.scale_by_learning_rate(learning_rate))


def dpadam(
    learning_rate: optax.ScalarOrSchedule,
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return Adam on private averages: the options of `optax.adam`.

    The three privacy settings stand where `dpsgd` has them. The noise enters Adam's
    second moment too, as a constant of its own variance (noise_multiplier *
    sensitivity / divisor)^2.

    Guarantee:
      That of `differentially_private_aggregate`.
    """
    adam = optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return privatize(
        adam,
        l2_norm_clip,
        noise_multiplier,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )


def dpadamw(
    learning_rate: optax.ScalarOrSchedule,
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Number = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return AdamW on private averages: the options of `optax.adamw`.

    `mask` is optax's: the leaves that decay. Its place in `update` is another one:
    there it marks the padding of a batch.

    Guarantee:
      That of `differentially_private_aggregate`.
    """
    adamw = optax.adamw(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        weight_decay,
        mask,
        nesterov=nesterov,
    )
    return privatize(
        adamw,
        l2_norm_clip,
        noise_multiplier,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )
