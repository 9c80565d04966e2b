"""What must hold, once a defect: each check takes what is to be asked, ours or a peer.

A check returns whether it holds. Numbers of the checks are those of `defects_list`.
"""

import itertools
import math

import dp_accounting
import numpy as np
from scipy import stats

from dpjax import accounting

Relation = dp_accounting.NeighboringRelation


def never_the_same_noise(releases):
    """1, 2, 3: no two of these releases of nothing show the same noise.

    A release that is withheld (NaN) shows none; one at least is not.
    """
    shown = [np.ravel(each) for each in releases if np.isfinite(each).all()]
    pairs = itertools.combinations(shown, 2)
    return bool(shown) and not any(np.allclose(a, b, atol=1e-6) for a, b in pairs)


def broken_example_adds_nothing(release):
    """4: a row that is not finite leaves the noiseless release as it would be without.

    `release(rows)` is of rows (batch, 2), with a divisor that does not depend on them.
    """
    whole = release(np.array([[0.1, 0.2], [0.3, 0.1], [0.0, 0.0]]))
    return all(
        np.allclose(release(np.array([[0.1, 0.2], [0.3, 0.1], [0.0, bad]])), whole)
        for bad in (np.nan, np.inf, -np.inf)
    )


def clip_bounds_half_precision(clipped):
    """5: many small float16 values, clipped to 0.001, are no longer than that.

    Rounding to float16 afterwards costs no more than one part in a hundred here.
    """
    rows = np.full((1, 1000), 1e-4, np.float16)
    norm = np.linalg.norm(np.asarray(clipped(rows, 1e-3), np.float64))
    return 0.9e-3 < norm < 1.01e-3


def divisor_is_public(release):
    """6: an example that adds nothing changes nothing, and a batch may be empty."""
    rows = np.array([[0.1, 0.2], [0.3, 0.1]])
    more = np.concatenate([rows, np.zeros((1, 2))])
    empty = release(np.zeros((0, 2)))
    return np.allclose(release(rows), release(more)) and np.isfinite(empty).all()


def scale_does_not_tell_the_size(stddev):
    """7: the noise of what is released is as wide with one example more.

    `stddev(rows)` is measured on 20,000 values: its relative error is 0.005.
    """
    return abs(stddev(9) / stddev(8) - 1) < 0.05


def costs_no_more_than_accounted(without, with_it, noise_multiplier):
    """8: an example moves what is released by at most 1 / noise multiplier deviations.

    The releases are (draws, values) and, as noise goes, Gaussian; 2,000 draws know the
    distance to about 0.03.
    """
    moved = with_it.mean(axis=0) - without.mean(axis=0)
    spread = np.cov(without, rowvar=False)
    return (
        math.sqrt(moved @ np.linalg.solve(spread, moved)) < 1 / noise_multiplier + 0.1
    )


def noise_is_what_the_event_says(noise, noise_multiplier):
    """9: noise (steps, values) of one participation at sensitivity 1, as accounted for.

    The covariance over steps tells how far one unit in a step is from none.
    """
    covariance = noise @ noise.T / noise.shape[1]
    most = np.diag(np.linalg.inv(covariance)).max()
    return 1 / math.sqrt(most) > 0.95 * noise_multiplier


def account_fits_the_batches(counts, epsilon, noise_multiplier, delta):
    """10: who shows each example once an epoch states no amplified epsilon.

    `counts`, (epochs, examples), are how often each example took part.
    """
    if not (counts == 1).all():
        return True
    unsampled = accounting.exact_epsilon(
        noise_multiplier=noise_multiplier,
        sampling_prob=1.0,
        num_steps=len(counts),
        delta=delta,
    )
    return epsilon >= unsampled - 1e-6


def example_enters_a_step_once(moved):
    """11: no value of a step moves by more than the clip norm, 1, and noise of 0.1.

    `moved`, (steps, examples), is what a step's sum of clipped one-hot rows, longer
    than 1, was before the division.
    """
    return 0.5 < np.abs(moved).max() < 1.6


def pieces_change_nothing(release):
    """12: the same release, whatever the number of pieces that a batch is cut into."""
    rows = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [-3.0, 0.0]])
    whole = release(rows, 1)
    return all(np.allclose(release(rows, pieces), whole) for pieces in (2, 4))


EVENTS = [
    dp_accounting.RandomizedResponseDpEvent(noise_parameter=0.5, num_buckets=2),
    dp_accounting.LaplaceDpEvent(1.0),
    dp_accounting.GaussianDpEvent(2.0),
]


def composition_counts(counted, one_by_one):
    """13: seven releases by count cost what seven releases one by one cost.

    Both take (event, count) and give epsilon, or None where the event is refused.
    """
    found = [(counted(e, 7), one_by_one(e, 7)) for e in EVENTS]
    return all(a is b or math.isclose(a, b, rel_tol=1e-6) for a, b in found)


def epsilon_and_steps_are_whole(epsilon, steps_of_epoch):
    """14: no epsilon is below 0; an epoch of 93 batches of one example has 93 steps."""
    found = [epsilon(1.0, 0.01, 1, delta) for delta in (0.1, 0.5)]
    return min(found) >= 0 and steps_of_epoch(93) == 93


def empty_batches_are_steps(num_batches):
    """15: a hundred steps at half an example each are a hundred batches."""
    return num_batches(100) == 100


HARD = [
    (0.5, 0.5, 1_000, 1e-5),
    (1.0, 0.01, 1_000, 1e-15),
    (100.0, 0.01, 1_000, 1e-5),
    (1.0, 1e-6, 10, 1e-5),
]
"""Noise multiplier, sampling probability, steps, delta."""


def hard_settings_have_answers(epsilon):
    """16: an epsilon from 0 to dp_accounting's Renyi bound, where others give up."""

    def renyi(noise_multiplier, sampling_prob, num_steps, delta):
        step = dp_accounting.PoissonSampledDpEvent(
            sampling_prob, dp_accounting.GaussianDpEvent(noise_multiplier)
        )
        accountant = dp_accounting.rdp.RdpAccountant().compose(step, num_steps)
        return accountant.get_epsilon(delta)

    return all(0 <= epsilon(*each) <= renyi(*each) for each in HARD)


def secure_noise_is_there(release, grain):
    """17: noise of the operating system's, in whole grains, twice not the same."""
    first, second = (np.asarray(release(), np.float64) / grain for _ in range(2))
    whole = np.array_equal(first, np.rint(first))
    return whole and not np.array_equal(first, second)


def shared_layer_is_measured(fast, slow):
    """18: norms of gradients of parameters that a loss uses twice, both ways."""
    return np.allclose(fast(), slow(), rtol=1e-5)


def refuses(call, errors):
    """19, 20, 22, 25: the call raises one of the errors."""
    try:
        call()
    except errors:
        return True
    return False


def goes_on_as_if_never_stopped(run):
    """21: after 2 of 4 steps and a restart, the same 4 steps, bit for bit.

    `run(stop)` returns the parameters after each step, (steps, values).
    """
    return np.array_equal(run(None), run(2))


SIGNIFICANCE = 0.05


def finds_nothing_in_nothing(bound, trials=100, size=100):
    """23, 24: of scores that tell nothing, few have a bound above 0.

    Twenty of a hundred would come by chance at 5% each with a probability of 1e-7.
    """
    found = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        found.append(bound(rng.normal(size=size), rng.normal(size=size)) > 0)
    limit = stats.binom.isf(1e-7, trials, SIGNIFICANCE)
    return sum(found) <= limit


def leaves_its_arguments_alone(score):
    """23: `score(logits, labels)` changes neither."""
    logits, labels = np.array([[0.5, 0.2], [0.1, 0.7]]), np.array([0, 1])
    given = logits.copy(), labels.copy()
    score(logits, labels)
    return all(map(np.array_equal, (logits, labels), given))


def axis_of_one_is_kept(shape_of_aux):
    """26: what is per example, of shape (1,), comes as (batch, 1)."""
    return shape_of_aux(5) == (5, 1)
