"""What is claimed is what is released, over the whole product of what there is.

A step is two programs that meet in a `ClippedGrads`. The slow tier runs every program
that clips, and every optimizer behind every mechanism, on what the clipping ones
return; and some hundred rows of the product from end to end.
"""

import jax
import numpy as np
import pairwise
import product
import product_runs as runs
import pytest
from released import flat

SLACK = {"float64": 1e-12}
"""Of a norm that is summed in float64; elsewhere 1e-6."""

PROGRAMS_KEPT = 500
"""Compiled ones: some ten thousand together take more maps than a process may have."""


def sensitivity_of(row, params, place):
    """Return by how far one loud example moves the clipped sum, and what is claimed."""
    clipped = runs.gradient_of(row)
    silent, loud = (
        clipped(params, rows, mask=mask)
        for rows, mask in (runs.batch(row, place, loud) for loud in (False, True))
    )
    moved = np.linalg.norm(flat(loud.sum) - flat(silent.sum))
    return moved, float(loud.sensitivity), silent


def assert_moves_as_claimed(row, moved, claimed):
    assert moved <= claimed * (1 + SLACK.get(row["dtype"], 1e-6)), row
    assert moved >= claimed * 0.99, row


def assert_released_as_claimed(row, values, claims):
    """Accept the claims, and show that two thirds or one and a half of them are not."""
    assert claims, row
    assert len(set(claims)) == 1, row
    stddev = runs.of_average(row, claims[0])
    assert values.size >= product.NUM_VALUES
    assert runs.p_value(values, stddev) > runs.LEVEL, row
    for factor in (2 / 3, 3 / 2):
        assert runs.p_value(values, stddev * factor) < runs.LEVEL, row


def check_release(row, key, params, sensitivity, grads, extra_args):
    found = runs.released(row, key, params, grads, extra_args)
    updates, history, state = found
    values = runs.noise(row, updates, history, sensitivity)
    assert_released_as_claimed(row, values, runs.claimed(row, state))


def check(row, key):
    """Check a row from its batch to its update."""
    with runs.precision(row):
        params, place = runs.placed(row)
        moved, claimed, _ = sensitivity_of(row, params, place)
        assert_moves_as_claimed(row, moved, claimed)
        grads, extra_args = runs.given(row, params, place)
        # Measured noise over the measured movement: no claim enters.
        check_release(row, key, params, moved, grads, extra_args)


def is_released(row):
    return product.expressible(row) and product.refusal(row) is None


def drawn(count, seed):
    """Return rows of the whole product at random."""
    generator = np.random.default_rng(seed)
    rows = []
    while len(rows) < count:
        row = {
            name: values[generator.integers(len(values))]
            for name, values in product.AXES.items()
        }
        if is_released(row):
            rows.append(row)
    return rows


def name_of(row):
    return "-".join(str(value) for value in row.values())


FAST = drawn(8, seed=8)
EACH = [
    pytest.param(key, row, id=name_of(row), marks=[pytest.mark.slow] * (key != 1))
    for key, row in enumerate(FAST)
]


@pytest.mark.parametrize(("key", "row"), EACH)
def test_what_is_claimed_is_what_is_released(key, row):
    check(row, key)


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_a_multiplier_that_is_off_by_a_half_would_be_found(factor, monkeypatch):
    row = FAST[0] | {"mechanism": ("DP-SGD", "Poisson"), "engine": "vmap"}
    row |= {"microbatch_size": None, "mesh": "one device"}
    honest = product.make_optimizer

    def wrong(row, key):
        with monkeypatch.context() as patch:
            patch.setattr(product, "MULTIPLIER", factor * product.MULTIPLIER)
            return honest(row, key)

    monkeypatch.setattr(product, "make_optimizer", wrong)
    with pytest.raises(AssertionError):
        check(row, key=3)


REFUSED = pairwise.rows(
    {name: product.AXES[name] for name in ("mechanism", "optimizer", "engine")},
    lambda row: (
        product.expressible(row | {"rule": "norm", "microbatch_size": None})
        and product.refusal(row) is not None
    ),
)


SOME = pytest.param(10, id="some")
ALL = pytest.param(1, id="all", marks=pytest.mark.slow)


@pytest.mark.parametrize("every", [SOME, ALL])
def test_what_cannot_be_put_together_is_refused_and_the_error_says_why(every):
    rest = {"rule": "norm", "dtype": "float32", "mesh": "one device"}
    rest |= {"microbatch_size": None, "padded": False}
    params, place = runs.placed(rest)
    rows = [rest | row for row in REFUSED[::every]]
    assert len(rows) > 300 / every
    for row in rows:
        with pytest.raises(ValueError, match=product.refusal(row)) as raised:
            refuse(row, params, place)
        assert str(raised.value).startswith("Expected "), row


def refuse(row, params, place):
    optimizer = product.make_optimizer(row, 0)
    grads, extra_args = runs.given(row, params, place)
    optimizer.update(grads, optimizer.init(params), params, **extra_args)


def gradient_programs():
    return list(product.full(product.GRADIENT_AXES))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", product.DTYPES)
@pytest.mark.parametrize("rule", product.RULES)
def test_every_clipped_sum_moves_as_claimed_and_looks_alike(rule, dtype):
    rows = list(product.full(product.GRADIENT_AXES, rule=rule, dtype=dtype))
    for row in rows:
        with runs.precision(row):
            params, place = runs.placed(row)
            moved, claimed, silent = sensitivity_of(row, params, place)
            assert_moves_as_claimed(row, moved, claimed)
            assert_looks_alike(row, silent, params)
    assert len(rows) == 36


def assert_looks_alike(row, grads, params):
    """Assert that the optimizers cannot tell which program clipped."""
    wide = np.float64 if row["dtype"] == "float64" else np.float32
    like = {name: (leaf.shape, wide) for name, leaf in params.items()}
    assert {n: (leaf.shape, leaf.dtype) for n, leaf in grads.sum.items()} == like
    assert isinstance(grads.sensitivity, float)
    assert grads.batch_size == (None if row["padded"] else product.BATCH_SIZE)
    assert not flat(grads.sum).any(), row


def releases(**fixed):
    """Yield the rows of all releases, each with one engine that it can have."""
    common = {"microbatch_size": None, "engine": "vmap"}
    for index, row in enumerate(product.full(product.RELEASE_AXES, **fixed)):
        row |= common | {"padded": bool(index % 2)}
        if is_released(row):
            yield row


@pytest.mark.slow
@pytest.mark.parametrize("mesh", product.AXES["mesh"])
@pytest.mark.parametrize("dtype", product.DTYPES)
def test_every_optimizer_behind_every_mechanism_releases_what_is_claimed(
    dtype, mesh, record_property
):
    count, inputs = 0, {}
    for count, row in enumerate(releases(dtype=dtype, mesh=mesh), 1):
        with runs.precision(row):
            params, place = runs.placed(row)
            kind, name = row["mechanism"]
            own = kind if kind in ("adaptive", "individual") else ""
            alike = own, kind == "aggregate" and name, row["rule"]
            key = *alike, row["padded"]
            if key not in inputs:
                inputs[key] = runs.given(row, params, place)
            grads, extra_args = inputs[key]
            sensitivity = sensitivity_claimed(row)
            check_release(row, count, params, sensitivity, grads, extra_args)
        if count % PROGRAMS_KEPT == 0:
            jax.clear_caches()
    record_property("releases", count)
    assert count > 1_400


def sensitivity_claimed(row):
    clip = product.RULES[row["rule"]]
    if isinstance(clip, dict):
        return float(np.sqrt(sum(value**2 for value in clip.values())))
    return product.CLIP_NORM


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_rows_drawn_at_random_release_what_is_claimed_from_end_to_end(part):
    for key, row in enumerate(drawn(30, seed=100 + part)):
        check(row, key)
        jax.clear_caches()


def test_strategies_are_as_sensitive_as_all_participations_say():
    checked, identity = 0, np.eye(product.NUM_STEPS)
    for strategy in product.STRATEGIES.values():
        inverse = strategy.noise_matrix(product.NUM_STEPS)
        matrix = strategy.matrix(product.NUM_STEPS)
        np.testing.assert_allclose(inverse @ matrix, identity, atol=1e-9)
    for mechanism in product.MECHANISMS:
        row = {"mechanism": mechanism, "rule": "norm", "optimizer": "sgd"}
        kind, sampler = mechanism
        if kind in product.STRATEGIES and sampler in product.BOUNDED:
            found = product.mechanism(row).strategy_sensitivity
            brute = runs.matrix_sensitivity(kind, sampler)
            assert found.value >= brute * (1 - 1e-9), row
            assert not found.exact or found.value == pytest.approx(brute), row
            checked += 1
    assert checked == 28
