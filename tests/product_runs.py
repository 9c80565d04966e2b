"""Runs of the rows of `product`: clipped sums, updates, and the noise in them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import product
from jax.sharding import NamedSharding, PartitionSpec
from released import flat
from scipy import stats

from dpjax import clipping, optimizers
from dpjax.optimizers import segments

LEVEL = 1e-7
"""Of the test of a standard deviation: 500 values at 2/3 of it have a p of 1e-20."""


def precision(row):
    """Return the context in which a row's dtype exists."""
    return jax.enable_x64(row["dtype"] == "float64")


def placed(row):
    """Return (parameters, place of a batch): on the devices of a row's mesh."""
    params = product.params(product.DTYPES[row["dtype"]])
    if row["mesh"] == "one device":
        return params, None
    kind = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("devices",), axis_types=kind)
    split = row["mesh"] == "sharded"
    specs = {
        "w": PartitionSpec(None, "devices") if split else PartitionSpec(),
        "b": PartitionSpec("devices") if split else PartitionSpec(),
    }
    places = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    return jax.device_put(params, places), NamedSharding(mesh, PartitionSpec("devices"))


def batch(row, place, loud):
    """Return examples and mask: none has a gradient, or a loud first one alone does.

    Where rows are padded, the padding has gradients that nobody must ever see.
    """
    generator = np.random.default_rng(0)
    sizes = {"a": product.ROWS, "g": product.COLUMNS, "c": product.BIASES}
    shown = np.zeros(product.BATCH_SIZE, bool)
    shown[0] = loud
    shown[4:] = row["padded"]
    dtype = product.DTYPES[row["dtype"]]
    rows = {
        name: jnp.asarray(
            10 * shown[:, None] * generator.normal(size=(shown.size, size)), dtype
        )
        for name, size in sizes.items()
    }
    mask = jnp.arange(shown.size) < 4 if row["padded"] else None
    return (rows, mask) if place is None else jax.device_put((rows, mask), place)


def gradient_of(row):
    """Return the function that clips, as the axes of gradients say."""
    options = {"engine": row["engine"], "microbatch_size": row["microbatch_size"]}
    plan = product.mechanism(row) if "mechanism" in row else None
    if plan is None:
        clip = product.RULES[row["rule"]]
        return clipping.clipped_grad(product.loss_fn, clip, **options)
    return plan.clipped_grad(product.loss_fn, **options)


def given(row, params, place):
    """Return what `update` is given of a silent batch: gradients and arguments."""
    rows, mask = batch(row, place, loud=False)
    kind, name = row["mechanism"]
    if kind != "aggregate" or name == "privatize" or row["engine"] == "bookkeeping":
        grads = gradient_of(row)(params, rows, mask=mask)
        if kind == "adaptive":
            grads = optimizers.VotedGrads.of(grads, mask, product.CLIP_NORM)
        if kind == "individual":
            nobody = jnp.zeros(product.DIVISOR)
            grads = grads.without_per_example()
            grads = optimizers.IndividualGrads(grads, nobody, nobody > 0, 1)
        return grads, {}
    if row["engine"] == "vmap":
        one = jax.vmap(jax.grad(product.loss_fn), in_axes=(None, 0))
        return jax.jit(one)(params, rows), {"mask": mask}
    return None, {"loss_fn": product.loss_fn, "batch": rows, "mask": mask}


def released(row, key, params, grads, extra_args):
    """Return updates and the parameters before each, (steps, values), and the state."""
    optimizer = product.make_optimizer(row, key)
    state = optimizer.init(params)
    steps = product.NUM_STEPS if row["mechanism"][0] in product.STRATEGIES else 1
    updates, history = [], []
    for _ in range(steps):
        update, state = optimizer.update(grads, state, params, **extra_args)
        updates.append(flat(update))
        history.append(flat(params))
        params = optax.apply_updates(params, update)
    return np.stack(updates), np.stack(history), state


def averages(name, updates, history):
    """Return the private averages that an optimizer made its updates of."""
    if name == "plain":
        return updates
    if name == "sgd":
        return -updates / 0.5
    if name == "momentum":
        return _undecayed(-updates / 0.5, 0.9)
    if name in ("adam", "adamw", "corrected adam"):
        decayed = 1e-4 * history if name == "adamw" else 0.0
        # Scaled by 1e3 + |mean| or by 1e3: within a thousandth or so the same.
        means = -(updates / 1e3 + decayed) * 1e3
        share = 1 - 0.9 ** np.arange(1, len(means) + 1)
        return _undecayed(means * share[:, None], 0.9) / 0.1
    if name == "ftrl":
        sums = _undecayed(-(history + updates) / 0.5, 0.9)
        return np.diff(sums, axis=0, prepend=0.0)
    centre, found = np.zeros(updates.shape[1]), []
    for place in history + updates:
        moved = place - centre  # The average, times a number below 0.
        size = np.linalg.norm(moved)
        found.append(-moved / size * (size + 0.25) / 0.5)
        centre = centre - 0.5 * found[-1]
    return np.stack(found)


def _undecayed(sums, decay):
    earlier = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    return sums - decay * earlier


def noise(row, updates, history, sensitivity):
    """Return the noise of the updates over sensitivity: (steps, values), independent.

    Its standard deviation is the multiplier of what releases the average.
    """
    values = averages(row["optimizer"], updates, history) * product.DIVISOR
    if row["mechanism"][1] == "scale then privatize":
        values = values / np.sqrt(2)  # Its scale, of a second moment of one.
    kind, sampler = row["mechanism"]
    if kind in product.STRATEGIES:
        rows = product.STRATEGIES[kind].noise_matrix(product.NUM_STEPS)
        root = np.linalg.cholesky(rows @ rows.T)
        found = product.mechanism(row).strategy_sensitivity
        # A bound is the claim; where it is exact, all participations have a say.
        size = matrix_sensitivity(kind, sampler) if found.exact else found.value
        values = np.linalg.solve(root, values) / size
    return values / sensitivity


def matrix_sensitivity(kind, sampler):
    """Return the sensitivity of C by going through all participations."""
    strategy = product.STRATEGIES[kind]
    matrix = strategy.matrix(product.NUM_STEPS)
    steps = range(product.NUM_STEPS)
    sets = [s for n in range(1, 5) for s in itertools.combinations(steps, n)]
    if sampler == "cyclic" and strategy.bands(product.NUM_STEPS) <= 2:
        allowed = [s for s in sets if len(s) == 1]  # The others are sampled apart.
    elif sampler in ("cyclic", "deterministic"):
        allowed = [s for s in sets if len({t % 2 for t in s}) == 1]
    elif sampler == "shuffled":
        allowed = [s for s in sets if len({t // 2 for t in s}) == len(s)]
    else:
        allowed = [s for s in sets if min(np.diff(s), default=2) >= 2]
    return max(np.linalg.norm(matrix[:, list(s)].sum(axis=1)) for s in allowed)


def of_average(row, multiplier):
    """Return the multiplier of the average alone, where counts are released too."""
    if row["mechanism"][0] == "adaptive":
        return (multiplier**-2 - (2 * product.COUNT_NOISE) ** -2) ** -0.5
    if row["mechanism"][1] == "sparse rows":
        return (multiplier**-2 - product.COUNT_NOISE**-2) ** -0.5
    return multiplier


def claimed(row, state):
    """Return the multipliers of a row's events; of an aggregate, that it counts."""
    plan = product.mechanism(row)
    if plan is not None:
        return [_multiplier(event) for event in product.events(plan)]

    def is_private(node):
        return isinstance(node, optimizers.PrivateAggregateState)

    (private,) = filter(is_private, jax.tree.leaves(state, is_leaf=is_private))
    return [row.noise_multiplier for row in segments.read(private.segments)]


def _multiplier(event):
    """Return the multiplier of the first step of an event."""
    while not hasattr(event, "noise_multiplier"):
        if hasattr(event, "rho"):
            return (2 * event.rho) ** -0.5
        event = event.events[0] if hasattr(event, "events") else event.event
    return event.noise_multiplier


def p_value(values, stddev):
    """Test values against N(0, stddev^2): chi-square, of both sides."""
    statistic, size = np.sum((values / stddev) ** 2), values.size
    return 2 * min(stats.chi2.cdf(statistic, size), stats.chi2.sf(statistic, size))
