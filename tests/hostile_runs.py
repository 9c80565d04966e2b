"""Plans with hostile numbers, and what their epsilons may not be below."""

import math

import dp_accounting
import hostile_oracle
from samplers import SAMPLERS
from scipy import stats

from dpjax.mechanism import DPSGD, SOUND_PAIRS

RELATIONS = dp_accounting.NeighboringRelation
ADD, ZERO, REPLACE = (
    RELATIONS.ADD_OR_REMOVE_ONE,
    RELATIONS.REPLACE_SPECIAL,
    RELATIONS.REPLACE_ONE,
)
MOST_EXAMPLES = 10**9
"""No sampler counts beyond 2^31 - 1: for smaller rates, batches have less than one."""

AXES = {
    "noise": (1e-3, 0.05, 0.3, 1.0, 30.0, 1e6),
    "rate": (1e-12, 1e-6, 0.01, 0.5, 1.0),
    "steps": (1, 2, 1000, 10**6, 10**9),
    "delta": (1e-300, 1e-100, 1e-12, 1e-5, 0.5, 0.999),
    "accountant": ("exact", "pld", "rdp", "certified"),
    "sampler": tuple(SAMPLERS),
    "relation": (ADD, ZERO, REPLACE),
}


def has_account(row):
    """Tell whether a row's sampler has an account under its relation."""
    return (type(SAMPLERS[row["sampler"]]), row["relation"]) in SOUND_PAIRS


def _sizes(row):
    """Return the numbers of examples, of all and of a batch."""
    most = round(10 / row["rate"])
    return (
        (most, 10)
        if most < MOST_EXAMPLES
        else (MOST_EXAMPLES, row["rate"] * MOST_EXAMPLES)
    )


def plan_of(row):
    most, batch = _sizes(row)
    return DPSGD(
        num_examples=most,
        expected_batch_size=batch,
        num_steps=row["steps"],
        l2_norm_clip=1.0,
        noise_multiplier=row["noise"],
        sampler=SAMPLERS[row["sampler"]],
        relation=row["relation"],
    )


def log_delta(row, epsilon):
    """Return a lower bound on log delta at an epsilon; -inf where none is known.

    All other examples contribute nothing, and the one that differs does its worst, in
    one direction.
    """
    noise, rate, steps = _worst(row)
    if not steps:
        return -math.inf
    replaced = row["relation"] == REPLACE
    return hostile_oracle.log_delta(epsilon, noise, rate, steps, replaced)


def _worst(row):
    """Return noise, rate and steps of Poisson samples that cost no more than a row."""
    name, noise, steps = row["sampler"], row["noise"], row["steps"]
    most, batch = _sizes(row)
    epoch = math.ceil(most / batch)
    if name == "Poisson":
        return noise, row["rate"], steps
    if name == "truncated":
        stays = stats.binom.cdf(39, most - 1, row["rate"])
        return noise, row["rate"] * stays * (1 - 1e-9), steps
    if name == "cyclic":
        return noise, min(1.0, 2 * row["rate"]), math.ceil(steps / 2)
    if name == "fixed size":
        return noise, batch / (most + 1), steps
    if name == "with replacement":
        missed = batch * math.log1p(-1 / most) if most > 1 else -math.inf
        return noise, -math.expm1(missed), steps
    if name in ("deterministic", "shuffled"):
        return noise, 1.0, steps // epoch
    if name == "balls in bins":
        return noise * math.sqrt(epoch), 1.0, steps // epoch
    if name == "random allocation":
        return noise * math.sqrt(2 * epoch) / 2, 1.0, steps // (2 * epoch)
    return noise, 1.0, 0


def most_epsilon(row):
    """Return what no account needs to exceed: all steps, without any sampling.

    It is the bound of concentrated privacy, with what a Renyi accountant of orders from
    1.001 to 1e6 adds, and a grid of 2^20 points.
    """
    most, batch = _sizes(row)
    copies = batch if row["sampler"] == "with replacement" else 1
    moved = copies * (2 if row["relation"] == REPLACE or copies > 1 else 1)
    moved *= 2 if row["sampler"] in ("truncated", "fixed size") else 1
    # A cycle that was begun is paid for.
    steps = row["steps"] + 2 * math.ceil(most / batch)
    cost = steps * moved**2 / (2 * row["noise"] ** 2)
    surprise = -math.log(row["delta"])
    return (cost + 2 * math.sqrt(cost * surprise) + surprise / 1e6) * 1.05
