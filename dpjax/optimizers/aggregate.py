"""The private step as an optax transformation: clip, sum, noise, divide."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping, noise
from dpjax.optimizers import segments
from dpjax.optimizers.incoming import clipped, refuse_masked
from dpjax.optimizers.segments import Segments
from dpjax.optimizers.settings import Number, Settings, checked, one_key
from dpjax.types import ArrayTree, KeyLike, Params


class PrivateAggregateState(NamedTuple):
    """State of the private step: plain arrays, which every checkpoint format keeps.

    Attributes:
      key: key data, uint32 `(2,)`: the source of all noise. Whoever reads it can take
        the noise off again: keep it as secret as the data.
      step: uint32, steps taken; with the key it determines the next step's noise.
      segments: how many steps were taken under which settings.
    """

    key: jax.Array
    step: jax.Array
    segments: Segments


def differentially_private_aggregate(
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    *,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
    max_copies: int = 1,
    seed: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn per-example gradients into a private average.

    The update is (Σ clip(g_i) + noise_multiplier · sensitivity · N(0, I)) / divisor
    (Abadi et al. 2016, Algorithm 1). It stands first in a chain: what it returns is
    private, and whatever follows is post-processing.

    `update(updates, state, params)` takes per-example gradients (leaves `(batch, ...)`)
    or a `ClippedGrads`; `update(None, state, params, loss_fn=loss_fn, batch=(x, y),
    mask=None)` computes them inside (under jit: an eager call compiles the loss anew).
    Put nothing before it where it is given a `ClippedGrads`: that would change the sum,
    but not the sensitivity that it states.

    Args:
      l2_norm_clip: clip norm > 0, a prefix pytree of such, or a clipping rule. Public.
      noise_multiplier: standard deviation of the noise over the sensitivity, >= 0;
        0 means no privacy (epsilon is infinite).
      key: PRNG key, key data, or an integer seed. Runs with the same key add the same
        noise: give every run its own. `None` draws it from the operating system when
        `init` is called.
      expected_batch_size: the public divisor. `None` declares a fixed batch and divides
        by the static length of the batch axis. Needed with `sampling_prob` or a mask.
      sampling_prob: probability in (0, 1] with which Poisson sampling puts each example
        into a batch, for the accounting; `None`: nothing is amplified.
      max_copies: how often one example may come in a batch, for the accounting: more
        than once where it is drawn with replacement, and then not with `sampling_prob`.
      seed: the old keyword of optax: an integer, instead of `key`.

    Returns:
      An optax transformation; its updates have the dtypes of the incoming gradients
      (of `params`, where the gradients are a `ClippedGrads` or computed inside). All
      arithmetic and the noise are float32 at least.

    Guarantee:
      Under add-or-remove-one, with `l2_norm_clip`, `noise_multiplier` and the divisor
      public, every step is a Gaussian mechanism with this noise multiplier, subsampled
      with `sampling_prob` if batches are drawn so. `privacy_spent` has the total.

    Raises:
      ValueError: settings out of range, shapes that do not match, clip norms that
        disagree, masked-out leaves (half a gradient cannot be private).
      TypeError: arguments of the wrong type, `key=None` under a trace.

    References:
      Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv 1607.00133.
    """
    settings = checked(
        l2_norm_clip, noise_multiplier, expected_batch_size, sampling_prob, max_copies
    )
    source = one_key(key, seed)

    def init(params: Params) -> PrivateAggregateState:
        refuse_masked("params", params)
        _check.float_leaves("params", params)
        if source is None and any(map(_check.is_traced, jax.tree.leaves(params))):
            raise TypeError(
                "Expected an explicit key when init is traced, got key=None. Fresh "
                "entropy can only be drawn outside of jit."
            )
        data = noise.key_data(source)
        return PrivateAggregateState(data, jnp.uint32(0), segments.empty())

    def update(
        updates: Any,
        state: PrivateAggregateState,
        params: Params | None = None,
        *,
        loss_fn: Callable | None = None,
        batch: Any = None,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, PrivateAggregateState]:
        del extra_args  # meant for other members of a chain
        grads, like = clipped(updates, params, settings.rule, loss_fn, batch, mask)
        return release(grads, state, settings, like)

    return optax.GradientTransformationExtraArgs(init, update)


def average_gradients(
    expected_batch_size: float,
) -> optax.GradientTransformationExtraArgs:
    """Divide the sum in a `ClippedGrads` by a constant: no noise and no privacy.

    The non-private counterpart of `differentially_private_aggregate`, for running the
    same loop without privacy.
    """
    divisor = _check.positive("expected_batch_size", expected_batch_size)

    def update(
        updates: clipping.ClippedGrads,
        state: Any,
        params: Any = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, Any]:
        del extra_args
        if not isinstance(updates, clipping.ClippedGrads):
            kind = type(updates).__name__
            _check.fail("a ClippedGrads", "type(updates)", kind, TypeError)
        average = jax.tree.map(lambda total: total / divisor, updates.sum)
        return in_dtypes_of(average, updates.sum if params is None else params), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def release(
    grads: clipping.ClippedGrads,
    state: PrivateAggregateState,
    settings: Settings,
    like: ArrayTree | None,
    *,
    accounted: Number | None = None,
) -> tuple[ArrayTree, PrivateAggregateState]:
    """Add the noise, divide by the public constant, count the step.

    Args:
      grads: the clipped sum.
      state: before the step.
      settings: of the step.
      like: a tree that has the dtypes of the result, or None.
      accounted: the noise multiplier of all that the step releases, where the average
        is not all of it; None is that of the settings.
    """
    divisor = public_divisor(grads, settings)
    stddev = settings.noise_multiplier * grads.sensitivity
    drawn = noise.gaussian_noise(state.key, state.step, grads.sum, stddev)
    average = jax.tree.map(lambda total, z: (total + z) / divisor, grads.sum, drawn)
    sampling_prob = settings.sampling_prob
    words = segments.settings_words(
        (settings.noise_multiplier if accounted is None else accounted)
        / settings.max_copies,
        1.0 if sampling_prob is None else sampling_prob,
    )
    counted = segments.count_step(state.segments, words)
    new_state = PrivateAggregateState(state.key, state.step + 1, counted)
    return in_dtypes_of(average, like), new_state


def public_divisor(grads: clipping.ClippedGrads, settings: Settings) -> Number:
    """Return the expected batch size, or the size of a batch that is fixed."""
    if settings.expected_batch_size is not None:
        return settings.expected_batch_size
    if grads.batch_size is None:
        raise ValueError(
            "Expected expected_batch_size with a mask, got expected_batch_size=None. "
            "The number of unmasked examples is private and cannot be the divisor."
        )
    if grads.batch_size == 0:
        raise ValueError(
            "Expected expected_batch_size for a batch that can be empty, got "
            "expected_batch_size=None and no example."
        )
    return grads.batch_size


def in_dtypes_of(tree: ArrayTree, like: ArrayTree | None) -> ArrayTree:
    """Return a tree in the dtypes of another, or as it is where there is none."""
    if like is None:
        return tree
    return jax.tree.map(lambda leaf, to: leaf.astype(jnp.result_type(to)), tree, like)
