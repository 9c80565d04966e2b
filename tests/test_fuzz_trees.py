"""Fuzzing: right numbers or a typed error, for every tree, value, mask and setting.

Each test runs so many inputs, counts them, and says how many: 1,700 in the fast tier,
70,000 in the slow one.
"""

import functools
import json
import math

import dp_accounting
import fuzzed
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fuzzed import flat_sum, fuzz, in_house
from hypothesis import strategies as st

from dpjax import accounting, clipping, noise, optimizers
from dpjax.accounting import events
from dpjax.accounting.ledgers import event_json
from dpjax.clipping import rules
from dpjax.mechanism import DPSGD
from dpjax.optimizers import segments

FAST = {"sums": 300, "optimizers": 200, "noise": 100, "events": 600, "settings": 500}
SLOW = {
    "sums": 20_000,
    "optimizers": 10_000,
    "noise": 2_000,
    "events": 20_000,
    "settings": 18_000,
}


def tiers(name):
    """Run a test on few inputs, and in the slow tier on many."""
    slow = pytest.param(SLOW[name], marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [FAST[name], slow])


def test_the_tiers_have_as_many_inputs_as_they_say():
    assert sum(FAST.values()) >= 1_700
    assert sum(SLOW.values()) >= 70_000


# Clipped sums: both engines against NumPy.


def linear_loss(params, x):
    """Return a loss whose gradient is the example itself; of matrices, an outer one."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(x), strict=True)
    return sum((jnp.vdot(p, v) for p, v in pairs), jnp.float32(0))


def params_of(name):
    leaves, tree = jax.tree.flatten(fuzzed.TREES[name], is_leaf=fuzzed.is_shape)
    return jax.tree.unflatten(
        tree,
        [
            jnp.zeros(shape, fuzzed.dtype_of(name, index))
            for index, shape in enumerate(leaves)
        ],
    )


def batch_of(name, rows):
    """Return rows (batch, size) as a tree of leaves (batch, ...), in its dtypes."""
    params, tree = jax.tree.flatten(params_of(name))
    ends = np.cumsum([leaf.size for leaf in params])[:-1]
    with np.errstate(over="ignore"):
        parts = [
            part.reshape(len(rows), *leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(np.split(rows, ends, axis=1), params, strict=True)
        ]
    return jax.tree.unflatten(tree, parts)


def flat_rows(batch, batch_size):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(batch)]
    rows = [leaf.reshape(batch_size, math.prod(leaf.shape[1:])) for leaf in leaves]
    return np.concatenate(rows, axis=1)


@functools.cache
def clipped(name, rule, engine):
    return clipping.clipped_grad(linear_loss, fuzzed.RULES[rule], engine=engine)


def factor_of(rule, norm):
    """Return what NumPy makes of a rule, for norms (batch,), in float64."""
    clip = fuzzed.CLIP_NORM
    if rule == "norm":
        return np.minimum(1, clip / np.maximum(norm, 1e-300))
    if rule == "automatic":
        return clip / (norm + 0.01)
    return clip / (norm + 0.1 / (norm + 0.1))


@st.composite
def sums(draw, trees, batch_sizes, rule_names):
    batch_size = draw(st.sampled_from(batch_sizes))
    return {
        "tree": draw(st.sampled_from(trees)),
        "rule": draw(st.sampled_from(rule_names)),
        "batch_size": batch_size,
        "recipe": draw(fuzzed.recipes()),
        "mask": draw(fuzzed.masks(batch_size)),
    }


def drawn_batch(case):
    size = sum(leaf.size for leaf in jax.tree.leaves(params_of(case["tree"])))
    rows = fuzzed.values(case["recipe"], case["batch_size"], size)
    return batch_of(case["tree"], rows)


def check_sum(case):
    batch = drawn_batch(case)
    rows = flat_rows(batch, case["batch_size"])
    mask = case["mask"]
    # With a mask or without: one program for both.
    whole = np.ones(case["batch_size"], bool) if mask is None else mask
    keep = whole & np.isfinite(rows).all(axis=1)
    params = params_of(case["tree"])
    found = [
        clipped(case["tree"], case["rule"], engine)(params, batch, mask=whole)
        for engine in ("vmap", "bookkeeping")
    ]
    clip, count = fuzzed.CLIP_NORM, int(keep.sum())
    norms = np.linalg.norm(np.where(keep[:, None], rows, 0), axis=1)
    for grads in found:
        total = flat_sum(grads.sum)
        assert np.isfinite(total).all(), case
        assert np.linalg.norm(total) <= max(1, count) * clip * (1 + 1e-6), case
        assert grads.sensitivity == pytest.approx(clip), case
        if not count:
            assert not total.any(), case
    assert_engines_agree(case, *(flat_sum(grads.sum) for grads in found), norms)
    # Beyond 1e37, factors are below what float32 holds: nothing is contributed.
    exact = case["rule"] in ("norm", "automatic", "per-sample adaptive")
    if exact and norms.max(initial=0) < 1e37:
        kept = np.where(keep[:, None], rows, 0)
        wanted = factor_of(case["rule"], norms) @ kept
        slack = 1e-5 * clip * max(1, count) + 1e-30
        np.testing.assert_allclose(flat_sum(found[0].sum), wanted, atol=slack, rtol=0)


def assert_engines_agree(case, one, other, norms):
    # Where squares leave float32's range, the fast engine clips by a bound above the
    # norm; for small norms that tells where gradients are scaled up to the clip norm.
    smallest = norms[norms > 0].min(initial=1.0)
    steady = case["rule"] != "never steady" or smallest > 1e-12
    if norms.max(initial=0) < 1e18 and steady:
        slack = 1e-5 * fuzzed.CLIP_NORM * max(1, len(norms))
        np.testing.assert_allclose(one, other, atol=slack, rtol=0, err_msg=str(case))


@tiers("sums")
def test_clipped_sums_are_right_and_bounded_whatever_the_values(count, record_property):
    everything = count == SLOW["sums"]
    strategy = sums(
        tuple(fuzzed.TREES) if everything else ("nested", "empty leaf"),
        fuzzed.BATCH_SIZES if everything else (0, 7),
        tuple(fuzzed.RULES) if everything else ("norm",),
    )
    fuzz(strategy, check_sum, count, record_property)


# Optimizers: finite updates, and settings that survive.

OPTIMIZERS = {
    "aggregate": lambda: optimizers.differentially_private_aggregate(
        fuzzed.CLIP_NORM, 0.0, 0, expected_batch_size=4
    ),
    "noisy": lambda: optimizers.dpsgd(
        1.0, fuzzed.CLIP_NORM, 1.0, 0, expected_batch_size=4
    ),
    "adaptive": lambda: optimizers.adaptive_clip_aggregate(
        fuzzed.CLIP_NORM, 1.0, 0, expected_batch_size=4
    ),
    "scaled": lambda: optimizers.scale_then_privatize(
        fuzzed.CLIP_NORM, 1.0, 0, stability=1.0, expected_batch_size=4
    ),
    "sparse": lambda: optimizers.sparse_row_aggregate(
        fuzzed.CLIP_NORM,
        1.0,
        0,
        tables=lambda path: "w" in path,
        threshold=0.5,
        count_noise=2.0,
        expected_batch_size=4,
    ),
}


@functools.cache
def program(tree, name):
    """Return a first state and a compiled step of an optimizer."""
    optimizer = OPTIMIZERS[name]()
    params = params_of(tree)
    return optimizer.init(params), jax.jit(
        lambda batch, state, mask: optimizer.update(batch, state, params, mask=mask)
    )


@st.composite
def steps(draw, trees, names):
    case = draw(sums(trees, (5,), ("norm",)))
    return case | {"optimizer": draw(st.sampled_from(names))}


def check_step(case):
    batch = drawn_batch(case)
    mask = np.ones(5, bool) if case["mask"] is None else case["mask"]
    state, update = program(case["tree"], case["optimizer"])
    for _ in range(2):
        updates, state = update(batch, state, mask)
        assert np.isfinite(flat_sum(updates)).all(), case
    clip_norm = optimizers.adaptive_clip_norm(state)
    if clip_norm is not None:
        assert 0 < float(clip_norm) < math.inf, case
    counted = optimizers.privacy_spent(state, 1e-5, accountant="rdp").epsilon
    assert counted > 0, case
    if case["optimizer"] == "aggregate":
        total = np.linalg.norm(flat_sum(updates)) * 4
        assert total <= mask.sum() * fuzzed.CLIP_NORM * (1 + 1e-3), case


@tiers("optimizers")
def test_updates_are_finite_whatever_the_gradients(count, record_property):
    everything = count == SLOW["optimizers"]
    strategy = steps(
        ("dense", "long", "half", "bfloat", "mixed") if everything else ("dense",),
        tuple(OPTIMIZERS) if everything else ("aggregate", "adaptive"),
    )
    fuzz(strategy, check_step, count, record_property)


# Trees of anything, for noise, gradients and optimizers.

_GOOD = (np.zeros((2, 3), np.float32), np.float16(1.0), np.ones(2, np.float64))
_BAD = (np.arange(3), np.bool_(True), 3, "text", 1j, object(), np.zeros(2, np.int8))


def trees(leaves):
    inner = st.one_of(st.sampled_from(leaves), st.none())
    return st.recursive(
        inner,
        lambda node: st.one_of(
            st.lists(node, max_size=3),
            st.tuples(node, node),
            st.dictionaries(st.sampled_from("abcd"), node, max_size=3),
        ),
        max_leaves=4,
    )


ANY_TREE = st.tuples(
    st.one_of(trees(_GOOD), trees(_GOOD + _BAD)),
    st.sampled_from((0.0, 1.0, 1e-30, 1e30, 1e-50, 1e60, -1.0, math.nan, math.inf)),
    st.integers(-1, 2**32),
)


def is_inexact(leaf):
    try:
        return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    except (TypeError, ValueError):
        return False


def check_tree(case):
    """Draw noise for a tree, and differentiate a loss of it: right, or refused."""
    tree, stddev, step = case
    leaves = jax.tree.leaves(tree)
    good = bool(leaves) and all(is_inexact(leaf) for leaf in leaves)
    key = noise.key_data(0)

    def draw():
        return jax.eval_shape(
            lambda words: noise.gaussian_noise(words, step, tree, stddev), key
        )

    drawn = in_house(draw)
    holds = stddev == 0 or 1e-37 < stddev < 1e38
    assert (drawn is not None) == (good and holds and 0 <= step < 2**32), case
    if drawn is not None:
        assert jax.tree.structure(drawn) == jax.tree.structure(tree), case
        wide = {np.dtype(np.float32), np.dtype(np.complex64)}
        assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} <= wide, case
    made = in_house(lambda: OPTIMIZERS["aggregate"]().init(tree))
    real = good and not any(jnp.iscomplexobj(leaf) for leaf in leaves)
    assert made is not None or not real, case
    assert made is None or good, case


@tiers("noise")
def test_any_tree_has_noise_of_its_shapes_or_a_typed_error(count, record_property):
    fuzz(ANY_TREE, check_tree, count, record_property)


# Events, ledgers and JSON.


def check_event(event):
    """Write an event down, read it again, and account for it: or refuse it."""
    written = in_house(lambda: event_json.to_json(event))
    if written is not None:
        text = json.dumps(written, allow_nan=False)
        again = event_json.from_json(json.loads(text))
        assert event_json.to_json(again) == written, event
    parts = in_house(lambda: events.take_apart(event))
    ledger = accounting.PrivacyLedger()
    kept = in_house(lambda: ledger.spend(event, "fuzzed") or ledger)
    if kept is not None:
        read = accounting.PrivacyLedger.from_json(ledger.to_json())
        assert read.digest == ledger.digest, event
    if parts is not None:
        bound = in_house(
            lambda: accounting.event_epsilon(event, 1e-5, accountant="rdp")
        )
        assert bound is None or bound >= 0, event


def check_json(value):
    event = in_house(lambda: event_json.from_json(value))
    if event is not None:
        assert isinstance(event, dp_accounting.DpEvent), value
    text = json.dumps(value)
    in_house(
        lambda: accounting.PrivacyLedger.from_json(text),
        accounting.LedgerError,
    )


def check_event_or_json(case):
    kind, value = case
    (check_event if kind == "event" else check_json)(value)


@tiers("events")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:dp_accounting")
def test_events_and_json_are_kept_to_the_digit_or_refused(count, record_property):
    strategy = st.one_of(
        st.tuples(st.just("event"), fuzzed.EVENTS),
        st.tuples(st.just("json"), fuzzed.JSON),
    )
    fuzz(strategy, check_event_or_json, count, record_property)


# Settings of rules, optimizers and mechanisms.

MAKERS = {
    "rule": lambda a, b, c: rules.as_rule({"w": a, "b": [b, c]}),
    "automatic": lambda a, b, c: rules.as_rule(rules.Automatic(a, b)),
    "adaptive rule": lambda a, b, c: rules.as_rule(rules.PerSampleAdaptive(a, b)),
    "per layer": lambda a, b, c: rules.PerLayer(a, depth=b),
    "dpsgd": lambda a, b, c: optimizers.dpsgd(0.1, a, b, 0, expected_batch_size=c),
    "adaptive": lambda a, b, c: optimizers.adaptive_clip_aggregate(
        1.0, a, 0, count_noise=b, target_quantile=c
    ),
    "scaled": lambda a, b, c: optimizers.scale_then_privatize(
        1.0, a, 0, stability=b, decay=c
    ),
    "sparse": lambda a, b, c: optimizers.sparse_row_aggregate(
        1.0, a, 0, tables=bool, threshold=b, count_noise=c
    ),
    "ftrl": lambda a, b, c: optimizers.ftrl(0.1, a),
    "corrected": lambda a, b, c: optimizers.corrected_adam(0.1, a, b, floor=c),
    "sampled": lambda a, b, c: optimizers.privatize(
        optax.sgd(0.1), 1.0, a, 0, expected_batch_size=b, sampling_prob=c
    ),
    "mechanism": lambda a, b, c: DPSGD(
        num_examples=a,
        expected_batch_size=b,
        num_steps=3,
        l2_norm_clip=1.0,
        noise_multiplier=c,
    ),
    "clip of a mechanism": lambda a, b, c: DPSGD(
        num_examples=9, expected_batch_size=3, num_steps=a, l2_norm_clip=[b, c]
    ),
    "words": lambda a, b, c: segments.settings_words(abs(float(a)), 1.0),
    "calibrated": lambda a, b, c: accounting.epsilon_curve(
        noise_multiplier=a, sampling_prob=b, delta=c, steps=[1], accountant="rdp"
    ),
}


@st.composite
def settings_of(draw):
    good = st.sampled_from((1.0, 0.5, 2, 3))
    one = st.one_of(fuzzed.GARBAGE, good, good)
    return draw(st.sampled_from(tuple(MAKERS))), draw(st.tuples(one, one, one))


def check_settings(case):
    """Make something of settings that are garbage here and there, or be refused."""
    name, settings = case
    if name == "words" and not isinstance(settings[0], float):
        settings = (1.0, *settings[1:])
    made = in_house(lambda: MAKERS[name](*settings))
    if made is not None and hasattr(made, "sensitivity"):
        assert 0 < float(made.sensitivity) < math.inf, case


@tiers("settings")
def test_settings_are_taken_or_refused_in_the_house_s_words(count, record_property):
    fuzz(settings_of(), check_settings, count, record_property)
