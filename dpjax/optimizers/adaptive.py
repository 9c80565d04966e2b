"""A private average whose clip norm follows a quantile of the gradients' norms."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping, noise
from dpjax.clipping import PerExample, rules
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    differentially_private_aggregate,
    public_divisor,
    release,
)
from dpjax.optimizers.incoming import clipped
from dpjax.optimizers.released_clip import (
    ReleasedClip,
    StepGradient,
    raw_quantities,
)
from dpjax.optimizers.settings import Number, Settings, checked
from dpjax.optimizers.states import states_of, the_state
from dpjax.optimizers.voted import VotedGrads
from dpjax.types import ArrayTree, KeyLike, LossFn, Params

_SHARE_OF_BATCH = 1 / 20
"""Noise of the count in batches: what Andrew et al. take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveClip(ReleasedClip):
    """A clip norm that follows a quantile: the settings, for a mechanism to hold.

    Attributes:
      initial_l2_norm_clip: clip norm of the first step, > 0. This and the rest as in
        `adaptive_clip_aggregate`; all are public.
      target_quantile: share of gradients that is not to be clipped, in (0, 1).
      clip_learning_rate: how fast the clip norm moves, > 0.
      count_noise: standard deviation of the count's noise, or None.

    Raises:
      ValueError: a setting out of range.
    """

    initial_l2_norm_clip: float
    target_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        """Check each setting by itself."""
        _check.positive("initial_l2_norm_clip", self.initial_l2_norm_clip)
        _check.open_unit("target_quantile", self.target_quantile)
        _check.positive("clip_learning_rate", self.clip_learning_rate)
        if self.count_noise is not None:
            _check.non_negative("count_noise", self.count_noise)

    @property
    def first(self) -> float:
        """The clip norm of the first step."""
        return self.initial_l2_norm_clip

    def aggregate(
        self,
        noise_multiplier: float,
        key: KeyLike | None,
        *,
        expected_batch_size: float,
        sampling_prob: Number | None,
    ) -> optax.GradientTransformationExtraArgs:
        """Return `adaptive_clip_aggregate` with these settings."""
        return adaptive_clip_aggregate(
            noise_multiplier=noise_multiplier,
            key=key,
            expected_batch_size=expected_batch_size,
            sampling_prob=sampling_prob,
            **dataclasses.asdict(self),
        )

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk with its votes, at the clip norm so far."""
        clipped_grad = clipping.clipped_grad(loss_fn, self.first, **options)

        def gradient(
            opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
        ) -> tuple[VotedGrads, PerExample]:
            clip_norm = the_state(opt_state, AdaptiveClipState).l2_norm_clip
            grads = clipped_grad(params, *batch, mask=mask, l2_norm_clip=clip_norm)
            return VotedGrads.of(grads, mask, clip_norm), raw_quantities(grads)

        return gradient


class AdaptiveClipState(NamedTuple):
    """State of the private step with an adaptive clip norm.

    Attributes:
      private: of the average: key, step, and what was spent.
      l2_norm_clip: of the next step, float32 scalar; released, and private.
    """

    private: PrivateAggregateState
    l2_norm_clip: jax.Array


def adaptive_clip_aggregate(
    initial_l2_norm_clip: float,
    noise_multiplier: float,
    key: KeyLike | None = None,
    *,
    target_quantile: float = 0.5,
    clip_learning_rate: float = 0.2,
    count_noise: float | None = None,
    expected_batch_size: float | None = None,
    sampling_prob: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into a private average, and learn the clip norm.

    Each step releases two things about its batch: the average, clipped to the C of the
    step, and how many gradients were no longer than C. The second moves C towards the
    wanted quantile of the norms, C <- C exp(-rate (share - quantile)).

    Both together cost what one Gaussian release of `noise_multiplier` z costs, and that
    is what `privacy_spent` counts: the average has the noise multiplier

        (1 / z^2 - 1 / (2 s)^2)^(-1/2),  s = count_noise,

    a little above z, since the count has the sensitivity 1/2 (it is of 1 less 1/2 for
    each gradient that is short, and of 0 less 1/2 for each that is not).

    Args:
      initial_l2_norm_clip: C of the first step, > 0. Public.
      noise_multiplier: z >= 0, of a whole step.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      target_quantile: share of gradients that is not to be clipped, in (0, 1).
      clip_learning_rate: how fast C moves, > 0.
      count_noise: standard deviation s of the count, above z / 2. None takes the larger
        of z and a twentieth of `expected_batch_size`.
      expected_batch_size: the public divisor, as in `differentially_private_aggregate`.
      sampling_prob: probability of Poisson sampling, for the accounting.

    Returns:
      An optax transformation, the first of a chain. `update` takes per-example
      gradients, or `None` with `loss_fn=`, `batch=` and `mask=`, or the `VotedGrads` of
      gradients clipped to the state's `l2_norm_clip`, which is the next clip norm.

    Guarantee:
      Under add-or-remove-one every step, with the clip norm of the next, is a Gaussian
      mechanism of noise multiplier z, subsampled with `sampling_prob` if batches are
      drawn so. What is released earlier, clip norms among it, may be known.

    Raises:
      ValueError: a setting out of range, `count_noise` of z / 2 or less, a bare
        `ClippedGrads` (its padding cannot be told from its examples).
      TypeError: arguments of the wrong type.

    References:
      Andrew, Thakkar, McMahan and Ramaswamy (2021), Differentially private learning
      with adaptive clipping, algorithm 1 and theorem 1.

    Example:
      >>> optimizer = optax.chain(
      ...     adaptive_clip_aggregate(1.0, 1.0, key=0, expected_batch_size=2),
      ...     optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[30.0, 40.0], [0.0, 20.0]])
      >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
      >>> bool(state[0].l2_norm_clip != 1.0)
      True
    """
    start = _check.positive("initial_l2_norm_clip", initial_l2_norm_clip)
    z = _check.non_negative("noise_multiplier", noise_multiplier)
    quantile = _check.open_unit("target_quantile", target_quantile)
    rate = _check.positive("clip_learning_rate", clip_learning_rate)
    s = _count_noise(count_noise, z, expected_batch_size)
    own = z / math.sqrt(1 - (z / (2 * s)) ** 2) if z else 0.0
    settings = checked(start, own, expected_batch_size, sampling_prob, 1)
    plain = differentially_private_aggregate(
        start,
        own,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )

    def init(params: Params) -> AdaptiveClipState:
        return AdaptiveClipState(plain.init(params), jnp.float32(start))

    def update(
        updates: Any,
        state: AdaptiveClipState,
        params: Params | None = None,
        *,
        loss_fn: Callable | None = None,
        batch: Any = None,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, AdaptiveClipState]:
        del extra_args  # meant for other members of a chain
        private, clip_norm = state
        if isinstance(updates, clipping.ClippedGrads):
            what = "VotedGrads, per-example gradients, or None with loss_fn="
            _check.fail(what, "type(updates)", "ClippedGrads")
        rule = rules.as_rule(clip_norm)
        given = updates.grads if isinstance(updates, VotedGrads) else updates
        grads, like = clipped(given, params, rule, loss_fn, batch, mask)
        counted = updates
        if not isinstance(updates, VotedGrads):
            counted = VotedGrads.of(grads, mask, clip_norm)
        share = _share(counted, private, settings, s)
        moved = clip_norm * jnp.exp(-rate * (share - quantile))
        # No clip norm is so small, or so large, that it can never come back.
        info = jnp.finfo(jnp.float32)
        moved = jnp.clip(moved, math.sqrt(info.tiny), math.sqrt(info.max))
        average, private = release(grads, private, settings, like, accounted=z)
        return average, AdaptiveClipState(private, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def adaptive_clip_norm(opt_state: ArrayTree) -> jax.Array | None:
    """Return the clip norm of the next step, None where it does not adapt.

    Args:
      opt_state: state of an optimizer; what is looked for may be anywhere in a chain.
    """
    found = states_of(opt_state, AdaptiveClipState)
    return found[0].l2_norm_clip if found else None


def _count_noise(count_noise: float | None, z: float, batch: float | None) -> float:
    if count_noise is None:
        size = 0.0 if batch is None else _check.positive("expected_batch_size", batch)
        return max(z, _SHARE_OF_BATCH * size)
    s = _check.non_negative("count_noise", count_noise)
    if s <= z / 2 and z:
        _check.fail(f"more than half of noise_multiplier={z:g}", "count_noise", s)
    return s


def _share(
    counted: VotedGrads,
    private: PrivateAggregateState,
    settings: Settings,
    stddev: float,
) -> jax.Array:
    """Return the noised share of gradients that are no longer than the clip norm."""
    # Its noise is drawn as that of a leaf that no average has: a root with a name.
    drawn = noise.gaussian_noise(
        private.key, private.step, _Count(jnp.float32(counted.votes)), stddev
    )
    return 0.5 + (counted.votes + drawn.short_gradients) / public_divisor(
        counted.grads, settings
    )


class _Count(NamedTuple):
    short_gradients: jax.Array
