"""Peers that share dpjax's interpreter, asked what `defects_checks` asks of dpjax.

Each function is called as the peer's documentation says; no defaults are changed but
those that a question names. A peer that may not be there is imported when it is asked.
"""

import importlib
import os
import warnings

import dp_accounting
import jax.numpy as jnp
import numpy as np
from optax import contrib

PARAMS = jnp.zeros(4)


def _jax_privacy(name):
    return importlib.import_module(f"jax_privacy.{name}")


def optax_step(transformation, rows):
    """Return the first update for per-example gradients."""
    params = jnp.zeros(rows.shape[1:])
    updates, _ = transformation.update(rows, transformation.init(params), params)
    return np.asarray(updates)


def optax_without_a_key():
    """Return what a new transformation without a key releases of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optax_step(
            contrib.differentially_private_aggregate(1.0, 1.0), jnp.zeros((2, 4))
        )


def optax_release(rows, clip_norm=1.0):
    """Return an update without noise."""
    private = contrib.differentially_private_aggregate(clip_norm, 0.0, key=0)
    return optax_step(private, jnp.asarray(rows))


def jax_privacy_runs():
    """Return the first noise of two runs of one plan, to which nobody gave a seed."""
    noise = _band_plan([1.0]).noise_addition_transform
    return [noise.update(PARAMS, noise.init(PARAMS))[0] for _ in range(2)]


def jax_privacy_beyond_its_matrix():
    """Return the noise of 5 steps of a matrix of 3."""
    noise_addition = _jax_privacy("noise_addition")
    noise = noise_addition.matrix_factorization_privatizer(
        jnp.eye(3), stddev=1.0, prng_key=0
    )
    state, found = noise.init(PARAMS), []
    for _ in range(5):
        rows, state = noise.update(PARAMS, state)
        found.append(np.asarray(rows))
    return found


def jax_privacy_clipped(rows, clip_norm):
    """Return the clipped gradient of one example, in its own dtype."""
    clipping = _jax_privacy("clipping")
    return clipping.clip_pytree(jnp.asarray(rows[0]), clip_norm)[0]


def _band_plan(strategy, **options):
    execution_plan = _jax_privacy("experimental.execution_plan")
    return execution_plan.BandMFExecutionPlanConfig(
        iterations=len(strategy),
        strategy=np.array(strategy),
        epsilon=None,
        delta=None,
        noise_multiplier=1.0,
        **options,
    ).plan


def jax_privacy_band_noise(strategy, size=20_000):
    """Return the noise of each step's values, and the event's noise multiplier."""
    plan = _band_plan(strategy, column_normalize=True)
    noise, like = plan.noise_addition_transform, jnp.zeros(size)
    state, found = noise.init(like), []
    for _ in strategy:
        rows, state = noise.update(like, state)
        found.append(np.asarray(rows, np.float64))
    return np.array(found), plan.dp_event.event.event.noise_multiplier


def jax_privacy_batch_norm(loss_fn, params, rows):
    """Return the gradients of a batched loss that mixes its rows."""
    return _jax_privacy("clipping").clipped_grad(loss_fn, l2_clip_norm=1.0)(
        params, rows
    )


def jax_privacy_gaussian_audit(significance, delta):
    """Return the bound on epsilon that takes the trade-off curve for Gaussian."""
    auditing = _jax_privacy("auditing")

    def bound(in_scores, out_scores):
        auditor = auditing.CanaryScoreAuditor(in_scores, out_scores)
        return auditor.epsilon_from_gdp(significance, delta)

    return bound


def jax_privacy_noise(stddev):
    """Make noise and draw it once."""
    noise_addition = _jax_privacy("noise_addition")
    noise = noise_addition.gaussian_privatizer(stddev=stddev)
    return noise.update(PARAMS, noise.init(PARAMS))[0]


def jax_privacy_seeded():
    """Return what noise without a key is after NumPy's global seed was set."""
    state = np.random.get_state()
    try:
        np.random.seed(0)
        return np.asarray(jax_privacy_noise(1.0))
    finally:
        np.random.set_state(state)


def jax_privacy_shape_of_aux(batch_size):
    """Return the shape of auxiliary values of shape (1,) each."""

    def loss_fn(params, row):
        return jnp.sum(params * row), jnp.mean(row, axis=0)[:1]

    grads = _jax_privacy("clipping").clipped_grad(
        loss_fn, has_aux=True, l2_clip_norm=1.0
    )
    return grads(jnp.ones(3), jnp.ones((batch_size, 3)))[1].aux.shape


def _keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return importlib.import_module("keras"), _jax_privacy("keras_api")


def keras_config(**options):
    """Return the settings of a private Keras model."""
    defaults = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "batch_size": 100,
        "gradient_accumulation_steps": 1,
        "train_steps": 500,
        "train_size": 10_000,
    }
    _, keras_api = _keras()
    return keras_api.DPKerasConfig(**{**defaults, **options})


def keras_batch_norm():
    """Make a Keras model private that normalises over the batch."""
    keras, keras_api = _keras()
    layers = [keras.Input((3,)), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    return keras_api.make_private(model, keras_config(noise_multiplier=5.0))


def _keras_linear(noise_multiplier=0.1, **options):
    """Return a private model of 8 rows, its kernel, and one-hot rows and targets."""
    keras, keras_api = _keras()
    kernel = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((8,)), kernel])
    sizes = {"epsilon": 1e9, "batch_size": 4, "train_size": 8, "train_steps": 4}
    settings = keras_config(noise_multiplier=noise_multiplier, **sizes, **options)
    steps = settings.gradient_accumulation_steps
    model = keras_api.make_private(model, settings)
    model.compile(
        optimizer=keras.optimizers.SGD(
            1.0, gradient_accumulation_steps=steps if steps > 1 else None
        ),
        loss=lambda _, predicted: jnp.sum(predicted, axis=-1),
    )
    examples = 3 * np.eye(8, dtype=np.float32), np.zeros((8, 1), np.float32)
    return model, kernel, examples


def keras_accumulated(seed):
    """Return what 2 accumulated batches of 4 of 8 one-hot rows sum up to: (1, 8)."""
    model, kernel, examples = _keras_linear(
        gradient_accumulation_steps=2, poisson_sampling_in_fit=True, seed=seed
    )
    model.fit(*examples, batch_size=4, steps_per_epoch=2, verbose=0)
    return 8 * np.asarray(kernel.kernel).reshape(1, 8)


def keras_epochs():
    """Return how often each of 8 examples took part in each of 2 epochs."""
    model, kernel, examples = _keras_linear(seed=0)
    found = [np.zeros(8)]
    for _ in range(2):
        model.fit(*examples, batch_size=4, verbose=0)
        found.append(-4 * np.asarray(kernel.kernel).ravel())
    return np.rint(np.diff(found, axis=0))


def accounted(event, times, count):
    """Return dp_accounting's epsilon of `count` releases, put to it `times` times."""
    accountant = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    for _ in range(times):
        accountant.compose(event, count)
    return accountant.get_epsilon(1e-6)


def prv_epsilon(noise_multiplier, sampling_prob, num_steps, delta):
    """Return prv_accountant's estimate of epsilon."""
    prv_accountant = importlib.import_module("prv_accountant")
    step = prv_accountant.PoissonSubsampledGaussianMechanism(
        sampling_probability=sampling_prob, noise_multiplier=noise_multiplier
    )
    accountant = prv_accountant.PRVAccountant(
        prvs=step,
        max_self_compositions=num_steps,
        eps_error=0.1,
        delta_error=delta / 1000,
    )
    return accountant.compute_epsilon(delta, num_steps)[1]
