"""Fuzzing releases: one example moves them by what they say, whatever its values.

Each test runs so many inputs, counts them, and says how many: 250 in the fast tier,
10,000 in the slow one.
"""

import functools
import math

import dp_accounting
import fuzzed
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzed import fuzz, in_house
from hypothesis import strategies as st

from dpjax import Private, release

FAST = {"values": 200, "settings": 50}
SLOW = {"values": 8_000, "settings": 2_000}
BATCH_SIZE, WIDTH, DIVISOR, NOISE = 7, 3, 4.0, 1.5
PARAMS = jnp.array([0.5, -1.0, 2.0])
GRID = 2.0**-8


def tiers(name):
    """Run a test on few inputs, and in the slow tier on many."""
    slow = pytest.param(SLOW[name], marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [FAST[name], slow])


def itself(params, x):
    return {"all": x, "sum": jnp.vdot(params, x)}


def first(params, x):
    return x[0]


def cubic(params, x):
    return jnp.vdot(params, x) ** 3 / 6


COMMON = {"key": 3, "expected_batch_size": DIVISOR}
CLIPPED = COMMON | {"l2_norm_clip": fuzzed.CLIP_NORM}
RELEASES = {
    "mean": functools.partial(release.private_mean, itself, PARAMS, **CLIPPED),
    "trace": functools.partial(
        release.private_trace, cubic, PARAMS, num_probes=5, **CLIPPED
    ),
    "hvp": lambda batch, **options: release.private_hvp(
        cubic, PARAMS, batch, jnp.ones(WIDTH), **(CLIPPED | options)
    ),
    "quantile": lambda batch, **options: release.private_quantile(
        first,
        PARAMS,
        batch,
        0.5,
        low=-2.0,
        high=5.0,
        num_bins=NUM_BINS,
        **(COMMON | options),
    ),
    "discrete": functools.partial(
        release.private_discrete_mean, itself, PARAMS, granularity=GRID, **CLIPPED
    ),
}
ROUNDED = fuzzed.CLIP_NORM + GRID * math.sqrt(WIDTH + 1) / 2
"""What one example moves a sum by, whose values are rounded to the grid."""
NUM_BINS = 256
SPREAD = sum((math.comb(2 * j, j) / 4**j) ** 2 for j in range(NUM_BINS))
"""What the noise of a count has over that of a column: see `private_quantile`."""


def sums_of(name, found):
    """Return what was released as the sum that one example moves, noise included."""
    if name == "discrete":
        return fuzzed.flat_sum(found.integers) * GRID
    value = found.per_probe if name == "trace" else found.value
    return fuzzed.flat_sum(value) * DIVISOR


@st.composite
def batches(draw):
    return {
        "name": draw(st.sampled_from(tuple(RELEASES))),
        "recipe": draw(fuzzed.recipes()),
        "mask": draw(fuzzed.masks(BATCH_SIZE).filter(lambda mask: mask is not None)),
        "left_out": draw(st.integers(0, BATCH_SIZE - 1)),
    }


def check_values(case):
    """One key, and so one noise: what is left between neighbours is the example."""
    rows = fuzzed.values(case["recipe"], BATCH_SIZE, WIDTH)
    with np.errstate(over="ignore"):
        batch = Private(rows.astype(np.float32))
    without = case["mask"].copy()
    without[case["left_out"]] = False
    made = functools.partial(RELEASES[case["name"]], batch, noise_multiplier=NOISE)
    one, other = (made(mask=mask) for mask in (case["mask"], without))
    assert one.event == other.event, case
    assert all(np.isfinite(np.asarray(found.stderr)).all() for found in (one, other))
    if case["name"] == "quantile":
        check_counts(case, one, other)
        return
    a, b = (sums_of(case["name"], found) for found in (one, other))
    assert np.isfinite(a).all(), case
    assert np.isfinite(b).all(), case
    bound = ROUNDED if case["name"] == "discrete" else fuzzed.CLIP_NORM
    rounding = 1e-5 * (1 + np.abs(a).max() + np.abs(b).max())
    assert np.linalg.norm(a - b) <= bound + rounding, case


def check_counts(case, one, other):
    """Noisy counts that never fall are as near to each other as the counts were."""
    assert all(-2 <= float(found.value) <= 5 for found in (one, other)), case
    a, b = (DIVISOR * np.asarray(found.cumulative) for found in (one, other))
    assert np.abs(a - b).max() <= 1 + 1e-5 * (1 + np.abs(a).max()), case


@tiers("values")
def test_one_example_moves_a_release_by_its_sensitivity(count, record_property):
    fuzz(batches(), check_values, count, record_property)


@st.composite
def settings(draw):
    def one(*good):
        is_garbage = draw(st.integers(0, 4)) == 0
        return draw(fuzzed.GARBAGE if is_garbage else st.sampled_from(good))

    return {
        "name": draw(st.sampled_from(tuple(RELEASES))),
        "noise_multiplier": one(0.5, 2.0),
        "expected_batch_size": one(2.0, 7, None),
        "sampling_prob": one(None, 0.5),
        "l2_norm_clip": one(0.5, 2),
    }


def check_settings(case):
    """Take settings that are garbage here and there, and mean them; or refuse them.

    Returns whether they were taken.
    """
    options = {name: value for name, value in case.items() if name != "name"}
    if case["name"] == "quantile":
        del options["l2_norm_clip"]
    if case["name"] == "discrete":
        del options["sampling_prob"]
    batch = Private(np.ones((BATCH_SIZE, WIDTH), np.float32))
    made = in_house(lambda: RELEASES[case["name"]](batch, **options))
    if made is None:
        return False
    noise = float(case["noise_multiplier"])
    assert 0 <= noise < math.inf, case
    event = made.event
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        assert event.sampling_probability == float(case["sampling_prob"]), case
        event = event.event
    if isinstance(event, dp_accounting.GaussianDpEvent):
        assert event.noise_multiplier == noise, case
    if isinstance(event, dp_accounting.ZCDpEvent):
        assert event.rho >= 0.5 / noise**2 * (1 - 1e-12), case
    check_stderr(case, noise, float(made.stderr))
    return True


def check_stderr(case, noise, stderr):
    """Compare the noise that a release states with the one its settings ask for."""
    clip = case["l2_norm_clip"]
    moved = {"mean": clip, "hvp": clip, "quantile": SPREAD}.get(case["name"])
    if moved is None:
        return
    divisor = case["expected_batch_size"]
    wanted = noise * float(moved) / float(BATCH_SIZE if divisor is None else divisor)
    assert stderr == pytest.approx(wanted, rel=1e-5, abs=1e-37), case


@tiers("settings")
def test_settings_of_a_release_are_taken_or_refused(count, record_property):
    taken = []
    fuzz(
        settings(),
        lambda case: taken.append(check_settings(case)),
        count,
        record_property,
    )
    assert sum(taken) > count / 5


def test_the_tiers_have_as_many_inputs_as_they_say():
    assert sum(FAST.values()) >= 250
    assert sum(SLOW.values()) >= 10_000
