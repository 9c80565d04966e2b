"""A private average of gradients that were scaled, coordinate by coordinate, before."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpjax import _check, clipping
from dpjax.clipping import PerExample, rules
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    differentially_private_aggregate,
)
from dpjax.optimizers.released_clip import (
    ReleasedClip,
    StepGradient,
    raw_quantities,
)
from dpjax.optimizers.scaled_grads import ScaledGrads, clipped_scaled_grad
from dpjax.optimizers.settings import Number
from dpjax.optimizers.states import the_state
from dpjax.types import ArrayTree, KeyLike, LossFn, Params


class ScaledAggregateState(NamedTuple):
    """State of the private step on scaled gradients.

    Attributes:
      private: of the average: key, step, and what was spent.
      second_moment: moving average of the squares of what was released, float32 at
        least, shaped like the parameters. A function of releases: private to show.
    """

    private: PrivateAggregateState
    second_moment: ArrayTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledClip(ReleasedClip):
    """Scale gradients by what was released before, then clip: for a mechanism to hold.

    Attributes:
      l2_norm_clip: of scaled gradients. This and the rest as in `scale_then_privatize`;
        all are public.
      stability: > 0, in the units of averages.
      decay: in [0, 1].

    Raises:
      ValueError: a setting out of range.
    """

    l2_norm_clip: Any
    stability: float
    decay: float = 0.99

    def __post_init__(self) -> None:
        """Check each setting by itself."""
        _check.positive("stability", self.stability)
        _decay(self.decay)

    @property
    def first(self) -> Any:
        """The clip norm, that of every step."""
        return self.l2_norm_clip

    def aggregate(
        self,
        noise_multiplier: float,
        key: KeyLike | None,
        *,
        expected_batch_size: float,
        sampling_prob: Number | None,
    ) -> optax.GradientTransformationExtraArgs:
        """Return `scale_then_privatize` with these settings."""
        return scale_then_privatize(
            self.l2_norm_clip,
            noise_multiplier,
            key,
            stability=self.stability,
            decay=self.decay,
            expected_batch_size=expected_batch_size,
            sampling_prob=sampling_prob,
        )

    def step_gradient(self, loss_fn: LossFn, **options: Any) -> StepGradient:
        """Return the gradient of a chunk, scaled as the optimizer's state says."""
        clipped = clipped_scaled_grad(loss_fn, self.l2_norm_clip, **options)

        def gradient(
            opt_state: ArrayTree, params: Params, *batch: Any, mask: Any
        ) -> tuple[ScaledGrads, PerExample]:
            scale = _scale(the_state(opt_state, ScaledAggregateState), self.stability)
            grads = clipped(params, scale, *batch, mask=mask)
            return ScaledGrads(grads.without_per_example()), raw_quantities(grads)

        return gradient


def scale_then_privatize(
    l2_norm_clip: Any,
    noise_multiplier: Number,
    key: KeyLike | None = None,
    *,
    stability: float,
    decay: float = 0.99,
    second_moment: ArrayTree | None = None,
    expected_batch_size: Number | None = None,
    sampling_prob: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale per-example gradients, make them a private average, and undo the scale.

    With v the moving average of squares of earlier private averages, coordinate by
    coordinate, and c the stability, a step is

        s = (1 + v / c^2)^(-1/2)
        g = (sum_i clip(s g_i) + noise) / (s N)
        v <- decay v + (1 - decay) g^2

    Coordinates whose gradients are large take less of the clip norm from the others,
    and have the noise: their noise grows by 1 / s, as Adam's step there shrinks. What
    comes out is an average gradient in the units of gradients, for any optimizer; it is
    meant for adaptive ones. At the start s is 1, and the step is that of DP-SGD.

    Args:
      l2_norm_clip: of the scaled gradients, as for `differentially_private_aggregate`.
        No scale is above 1: the clip norm of DP-SGD, or a smaller one.
      noise_multiplier: of that, as are key, expected_batch_size and sampling_prob.
      key: PRNG key, key data or seed; `None` draws fresh entropy at `init`.
      stability: c > 0, in the units of averages: where the root of v is far below it,
        nothing is scaled. The noise is in v too: take it above noise_multiplier *
        l2_norm_clip / N.
      decay: in [0, 1]; 1 keeps the v of the start for ever.
      second_moment: v of the start, >= 0, shaped like the parameters: from public data,
        or from what was released before. None is zero.
      expected_batch_size: the public divisor N.
      sampling_prob: probability of Poisson sampling, for the accounting.

    Returns:
      An optax transformation, the first of a chain, as `privatize` has it. `update`
      takes per-example gradients, or `None` with `loss_fn=`, `batch=` and `mask=`, or
      `ScaledGrads`: clipped sums of gradients that were scaled with the same state. For
      `fit`, `ScaledClip` holds the settings.

    Guarantee:
      That of `differentially_private_aggregate`, step by step: under add-or-remove-one
      each step is a Gaussian mechanism of this noise multiplier. For given s, the sum
      of clip(s g_i) has the sensitivity of the clip, whatever s is; s is a function of
      what was released before and of public numbers, so that the composition of steps,
      each given those before, covers it; and to divide by s is post-processing.

    Raises:
      ValueError: a setting out of range, a `ClippedGrads` (it is clipped already, and
        not scaled), or a second moment of another shape.
      TypeError: arguments of the wrong type.

    References:
      Li, Zaheer, Liu, Reddi, McMahan and Smith (2023), Differentially private adaptive
      optimization with delayed preconditioners, arXiv 2212.00309; Ganesh, McMahan and
      Thakurta (2025), On design principles for private adaptive optimizers,
      arXiv 2507.01129.

    Example:
      >>> private = scale_then_privatize(1.0, 1.0, key=0, stability=0.1)
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[30.0, 40.0], [0.0, 20.0]])
      >>> average, state = private.update(grads, private.init(params), params)
      >>> bool(jnp.all(state.second_moment > 0))
      True
    """
    rule = rules.as_rule(l2_norm_clip)
    least = _check.positive("stability", stability)
    kept = _decay(decay)
    plain = differentially_private_aggregate(
        rule,
        noise_multiplier,
        key,
        expected_batch_size=expected_batch_size,
        sampling_prob=sampling_prob,
    )

    def init(params: Params) -> ScaledAggregateState:
        private = plain.init(params)
        return ScaledAggregateState(private, _start(second_moment, params))

    def update(
        updates: Any,
        state: ScaledAggregateState,
        params: Params | None = None,
        *,
        loss_fn: LossFn | None = None,
        batch: Any = None,
        mask: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[ArrayTree, ScaledAggregateState]:
        del extra_args  # meant for other members of a chain
        scale = _scale(state, least)
        if updates is None:
            grads = _computed(rule, loss_fn, params, scale, batch, mask)
            released, private = plain.update(grads, state.private, params)
        elif isinstance(updates, ScaledGrads):
            released, private = plain.update(updates.grads, state.private, params)
        else:
            rows = _scaled(updates, scale)
            released, private = plain.update(rows, state.private, params, mask=mask)
        average = _divided(released, scale)
        moments = jax.tree.map(
            lambda v, g: kept * v + (1 - kept) * jnp.square(g.astype(v.dtype)),
            state.second_moment,
            average,
        )
        return average, ScaledAggregateState(private, moments)

    return optax.GradientTransformationExtraArgs(init, update)


def _decay(decay: Any) -> float:
    kept = _check.non_negative("decay", decay)
    if kept > 1:
        _check.fail("a number in [0, 1]", "decay", decay)
    return kept


def _scale(state: ScaledAggregateState, stability: float) -> ArrayTree:
    """Return s, coordinate by coordinate, in (0, 1]."""
    return jax.tree.map(
        lambda v: jax.lax.rsqrt(1 + v / stability**2), state.second_moment
    )


def _start(second_moment: ArrayTree | None, params: Params) -> ArrayTree:
    """Return the first second moment, one that was given or zero."""
    if second_moment is not None:
        _check.same_shapes("second_moment", second_moment, params)
    else:
        second_moment = jax.tree.map(jnp.zeros_like, params)

    def wide(v: Any) -> jax.Array:
        dtype = jnp.promote_types(jnp.result_type(v), jnp.float32)
        moment = jnp.asarray(v, dtype)
        if not _check.is_traced(moment) and not bool(jnp.all(moment >= 0)):
            _check.fail("numbers >= 0", "second_moment", second_moment)
        return moment

    _check.real_leaves("params", params)
    return jax.tree.map(wide, second_moment)


def _scaled(updates: ArrayTree, scale: ArrayTree) -> ArrayTree:
    """Return per-example gradients times the scale, in their own dtypes."""
    if isinstance(updates, clipping.ClippedGrads):
        what = "ScaledGrads, per-example gradients, or None with loss_fn="
        _check.fail(what, "type(updates)", "ClippedGrads")
    _check.leading_axis("updates", updates)
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], leaf.dtype), updates
    )
    _check.same_shapes("updates without their batch axis", one, scale)
    return jax.tree.map(lambda g, s: (g * s).astype(g.dtype), updates, scale)


def _divided(released: ArrayTree, scale: ArrayTree) -> ArrayTree:
    """Return what was released in the units of gradients again."""
    return jax.tree.map(lambda g, s: (g / s).astype(g.dtype), released, scale)


def _computed(
    rule: rules.ClippingRule,
    loss_fn: LossFn | None,
    params: Params | None,
    scale: ArrayTree,
    batch: Any,
    mask: jax.Array | None,
) -> clipping.ClippedGrads:
    """Return the clipped sum of scaled gradients of a batch."""
    if loss_fn is None or params is None or batch is None:
        raise ValueError(
            "Expected update(None, state, params, loss_fn=..., batch=...), got "
            f"loss_fn={type(loss_fn).__name__}, params={type(params).__name__}, "
            f"batch={type(batch).__name__}."
        )
    examples = batch if type(batch) is tuple else (batch,)
    fn = clipped_scaled_grad(loss_fn, rule)
    return fn(params, scale, *examples, mask=mask)
