"""dpjax, asked what `defects_checks` asks: each function is a user's plain call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dpjax
from dpjax import accounting, auditing, noise, optimizers, sampling, training
from dpjax.noise import correlated

PARAMS = jnp.zeros(4)

fast_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
"""What compiles sooner: these functions run a few times each."""


def plan(**options):
    """Return DP-SGD with a clip norm and noise multiplier of 1 on 8 examples."""
    defaults = {
        "num_examples": 8,
        "expected_batch_size": 4,
        "num_steps": 4,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
    }
    return dpjax.DPSGD(**{**defaults, **options})


def first_update(transformation, rows):
    """Return the first update for per-example gradients, (values,)."""
    params = jnp.zeros(rows.shape[1:], rows.dtype)
    state = transformation.init(params)
    updates, _ = transformation.update(rows, state, params)
    return np.asarray(updates)


def without_a_key():
    """Return what a new transformation without a key releases of nothing."""
    private = dpjax.differentially_private_aggregate(1.0, 1.0)
    return first_update(private, jnp.zeros((2, 4)))


def runs():
    """Return the first noise of two runs of one optimizer that has no key."""
    private = plan().optimizer(optax.sgd(1.0))
    return [first_update(private, jnp.zeros((2, 4))) for _ in range(2)]


def beyond_the_end():
    """Return the noise of 5 compiled steps of a plan of 3."""
    private = _factorized([1.0, 0.5], num_steps=3).optimizer(optax.sgd(1.0), 0)
    update = fast_jit(lambda state: private.update(jnp.zeros((4, 4)), state, PARAMS))
    state, found = private.init(PARAMS), []
    for _ in range(5):
        updates, state = update(state)
        found.append(np.asarray(updates))
    return found


def release(rows, clip_norm=1.0):
    """Return an update without noise, divided by 4."""
    private = dpjax.differentially_private_aggregate(
        clip_norm, 0.0, key=0, expected_batch_size=4
    )
    return first_update(private, jnp.asarray(rows))


def clipped(rows, clip_norm):
    """Return the clipped gradient of one example, in its own dtype."""
    private = dpjax.differentially_private_aggregate(clip_norm, 0.0, key=0)
    return first_update(private, jnp.asarray(rows))


def stddev(rows):
    """Return how wide the noise of a step is, for a data set of so many rows."""
    private = plan().optimizer(optax.sgd(1.0), 0)
    return first_update(private, jnp.zeros((rows, 20_000))).std()


def adaptive(rows, draws, count_noise):
    """Return sums and shares of unclipped examples, (draws, 3)."""
    private = optimizers.adaptive_clip_aggregate(
        1.0, 1.0, 0, count_noise=count_noise, expected_batch_size=4
    )
    rows = jnp.asarray(rows)
    start = private.init(rows[0])

    def one(key):
        state = start._replace(private=start.private._replace(key=key))
        average, state = private.update(rows, state, rows[0])
        share = 0.5 - jnp.log(state.l2_norm_clip) / 0.2
        return jnp.append(4 * average, share)

    keys = jax.random.key_data(jax.random.split(jax.random.key(1), draws))
    return np.asarray(fast_jit(jax.vmap(one))(keys), np.float64)


def _factorized(column, num_steps):
    """Return a plan of one epoch whose strategy has the same column in each step."""
    columns = tuple(
        tuple(w if step + below < num_steps else 0.0 for below, w in enumerate(column))
        for step in range(num_steps)
    )
    return dpjax.DPMatrixFactorization(
        num_examples=4 * num_steps,
        expected_batch_size=4,
        num_steps=num_steps,
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
        strategy=correlated.Banded(columns),
    )


def band_noise(column):
    """Return the noise of each step's values, and the event's noise multiplier."""
    mechanism = _factorized(column, len(column))
    private, like = mechanism.optimizer(optax.identity(), 0), jnp.zeros(20_000)
    update, state, found = fast_jit(private.update), private.init(like), []
    for _ in column:
        updates, state = update(jnp.zeros((1, 20_000)), state, like)
        found.append(4 * np.asarray(updates, np.float64))
    return np.array(found), mechanism.event().noise_multiplier


def epochs(sampler, count, delta):
    """Return how often each of 64 examples took part by epoch, and the epsilon."""
    mechanism = plan(num_examples=64, num_steps=16 * count, sampler=sampler)
    counts = np.zeros((count, 64))
    for step, chunks in enumerate(mechanism.batches(0)):
        for chunk in chunks:
            np.add.at(counts[step // 16], chunk.indices, chunk.mask)
    return counts, mechanism.epsilon(delta)


def accumulated():
    """Return what steps of 8 one-hot rows sum up to, in chunks of 2: (steps, 8)."""
    mechanism = plan(num_steps=10, static_batch_size=2, noise_multiplier=0.1)
    rows, params = 3 * jnp.eye(8), jnp.zeros(8)
    grads = fast_jit(mechanism.clipped_grad(lambda params, row: params @ row))
    private = mechanism.optimizer(optax.identity(), 0)
    update, state, found = fast_jit(private.update), private.init(params), []
    for chunks in mechanism.batches(0):
        parts = [grads(params, rows[c.indices], mask=c.mask) for c in chunks]
        total = sum(parts[1:], start=parts[0]).without_per_example()
        updates, state = update(total, state, params)
        found.append(4 * np.asarray(updates))
    return np.array(found)


def refuse_multi_steps():
    """Ask for an accumulation of batches before the noise."""
    inner = dpjax.dpsgd(0.1, 1.0, 1.0, key=0)
    accumulation = optax.MultiSteps(inner, 2).gradient_transformation()
    dpjax.check_optimizer(accumulation, PARAMS)


def in_pieces(rows, pieces):
    """Return a sum of clipped gradients, of rows cut into so many pieces."""
    rows = jnp.asarray(rows)
    grads = dpjax.clipped_grad(
        lambda params, row: params @ row, 1.0, microbatch_size=len(rows) // pieces
    )
    return np.asarray(grads(jnp.zeros(rows.shape[1]), rows).sum)


def epsilon_of(event):
    """Return the epsilon of an event, None where there is no account of it."""
    relation = accounting.events.Relation.REPLACE_SPECIAL
    try:
        return float(accounting.event_epsilon(event, 1e-6, relation=relation))
    except accounting.AccountingError:
        return None


def epsilon(noise_multiplier, sampling_prob, num_steps, delta, accountant="exact"):
    """Return the epsilon of Poisson-sampled Gaussian steps."""
    event = accounting.accountants.dpsgd_event(
        noise_multiplier, sampling_prob, num_steps
    )
    return accounting.event_epsilon(event, delta, accountant=accountant)


def steps_of_epoch(batches):
    """Return after how many steps in turn each example took part once."""
    mechanism = plan(
        num_examples=batches,
        expected_batch_size=1,
        num_steps=2 * batches,
        sampler=sampling.Deterministic(),
    )
    seen = set()
    for step, chunks in enumerate(mechanism.batches(0), start=1):
        seen.update(i for c in chunks for i in c.indices[c.mask].tolist())
        if len(seen) == batches:
            return step
    return None


def num_batches(steps):
    """Return how many batches come, of half an example each; some are empty."""
    mechanism = plan(num_examples=10, expected_batch_size=0.5, num_steps=steps)
    sizes = [sum(c.mask.sum() for c in chunks) for chunks in mechanism.batches(0)]
    assert 0 in sizes
    return len(sizes)


def discrete(grain):
    """Return a mean with the system's own noise, on a grid."""
    released = dpjax.release.private_discrete_mean(
        lambda _, row: row,
        None,
        dpjax.Private(jnp.full((4, 8), 0.1)),
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
        granularity=grain,
        expected_batch_size=1,
    )
    return released.value


def shared_layer(engine):
    """Return the norms of gradients of a matrix that the loss uses twice: (4,)."""

    def loss_fn(params, row):
        return jnp.sum((jnp.tanh(row @ params) @ params) ** 2)

    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    params = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    grads = dpjax.clipped_grad(loss_fn, 1.0, engine=engine)(params, rows)
    return np.asarray(grads.per_example.grad_norm)


def misspelt():
    """Ask for a sampler with a letter missing."""
    plan(samplr=sampling.Deterministic())


def whole_number():
    """Hand over a parameter that no gradient can train."""
    params = {"trained": jnp.zeros(2), "steps": jnp.int32(0)}
    dpjax.differentially_private_aggregate(1.0, 1.0, key=0).init(params)


def fit(loss_fn, rows, **options):
    """Train for four steps on rows, (8, ...)."""
    return training.fit(
        plan(),
        loss_fn,
        jnp.zeros(rows.shape[1:]),
        rows,
        optax.sgd(1.0),
        delta=1e-5,
        logging=training.Logging(every=1, progress=False),
        checkpointing=training.Checkpointing(every=1),
        **options,
    )


def batch_norm(loss_fn, params, rows):
    """Train with a batched loss that mixes its rows."""
    del params
    fit(loss_fn, rows, keep_batch_dim=True, key=0)


class PowerCut(Exception):
    """What stops a run."""


def run(stop, folder):
    """Return the parameters after each of 4 steps, begun anew after `stop` of them."""
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    steps: list[np.ndarray] = []

    def evaluate(params):
        if len(steps) == stop and not options.get("resume"):
            raise PowerCut
        steps.append(np.asarray(params))
        return {"norm": float(jnp.linalg.norm(params))}

    options = {"key": 0, "run_dir": folder, "evaluate": evaluate}
    if stop is not None:
        try:
            fit(_inner, rows, **options)
        except PowerCut:
            options["resume"] = True
    fit(_inner, rows, **options)
    return np.array(steps)


def _inner(params, row):
    return params @ row


def overspend(target_epsilon, noise_multiplier, sampling_prob, num_steps, delta):
    """Enter a plan in a ledger whose budget it may exceed."""
    mechanism = plan(
        num_examples=10_000,
        expected_batch_size=10_000 * sampling_prob,
        num_steps=num_steps,
        noise_multiplier=noise_multiplier,
    )
    ledger = dpjax.PrivacyLedger(budget=(target_epsilon, delta))
    ledger.spend(mechanism.event(), "training")


def calibrated(target_epsilon, delta):
    """Return the epsilon of a plan that was calibrated to one."""
    mechanism = plan(num_examples=10_000, expected_batch_size=100, num_steps=500)
    return mechanism.calibrate(target_epsilon, delta).epsilon(delta)


def audit(significance, delta, method):
    """Return a bound on epsilon from scores of members and others."""

    def bound(in_scores, out_scores):
        return auditing.epsilon_from_scores(
            in_scores, out_scores, delta=delta, significance=significance, method=method
        )

    return bound


def noise_of(stddev):
    """Make a private step with noise of a standard deviation, and take it."""
    private = dpjax.differentially_private_aggregate(1.0, stddev)
    return first_update(private, jnp.zeros((1, 4)))


def seeded():
    """Return what noise without a key is after NumPy's global seed was set."""
    state = np.random.get_state()
    try:
        np.random.seed(0)
        return noise_of(1.0)
    finally:
        np.random.set_state(state)


def shape_of_aux(batch_size):
    """Return the shape of auxiliary values of shape (1,) each."""

    def loss_fn(params, row):
        return jnp.sum(params * row), jnp.mean(row, axis=0)[:1]

    grads = dpjax.clipped_grad(loss_fn, 1.0, has_aux=True, keep_batch_dim=True)
    return grads(jnp.ones(3), jnp.ones((batch_size, 3))).per_example.aux.shape


def noise_of_leaves():
    """Return the noise of two leaves of one shape."""
    like = {"first": jnp.zeros(8), "second": jnp.zeros(8)}
    return list(noise.gaussian_noise(noise.key_data(0), 0, like, 1.0).values())
