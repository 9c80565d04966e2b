"""What holds for every kind of release."""

import itertools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from released import assert_normal
from releases import CLIP, CLIPPED, KINDS, SIZE, noised, pure_noise

from dpjax import accounting, clipping, optimizers, release
from dpjax.curvature import Private, Public

VECTORS = ["mean", "trace", "hvp"]


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


# Each kind compiles programs of its own: one of them is enough for the fast tests of
# what is the same code for all.
EVERY = ["mean", *map(slow, ["trace", "hvp", "quantile"])]

HOSTILE = {
    "ordinary": 3.0,
    "nan": np.nan,
    "inf": np.inf,
    "minus_inf": -np.inf,
    "huge": 1e30,
    "largest": np.finfo(np.float32).max,
    "fp16_tiny": 6e-8,
    "subnormal": 1e-41,
    "zero": 0.0,
}


def examples(batch_size=6, size=5, dtype=jnp.float32):
    values = np.random.default_rng(0).normal(size=(batch_size, size))
    return jnp.asarray(values, dtype)


def clipped_sum(kind, x, mask):
    """Return the clipped sum: a release without noise, whose divisor is 1."""
    exact = CLIPPED[kind](
        x,
        l2_norm_clip=CLIP,
        noise_multiplier=0.0,
        key=0,
        mask=mask,
        expected_batch_size=1.0,
    )
    return noised(exact)


# Sensitivity.


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("dtype", ["float32", slow("float16"), slow("float64")])
@pytest.mark.parametrize("kind", CLIPPED)
def test_one_example_moves_the_clipped_sum_by_at_most_the_clip_norm(
    kind, dtype, hostile
):
    with jax.enable_x64(dtype == "float64"), np.errstate(over="ignore"):
        x = examples(dtype=dtype).at[0].set(jnp.asarray(HOSTILE[hostile]).astype(dtype))
        everyone = jnp.ones(6, bool)
        with_it = clipped_sum(kind, x, everyone)
        without = clipped_sum(kind, x, everyone.at[0].set(False))
        replaced = clipped_sum(kind, x.at[0].set(-x[1] * 7), everyone)
    unit = np.finfo(dtype).eps if dtype == "float64" else 2.0**-24
    slack = 24 * unit * np.linalg.norm(with_it)
    assert np.isfinite(with_it).all()
    assert np.linalg.norm(with_it - without) <= CLIP + slack
    assert np.linalg.norm(with_it - replaced) <= 2 * CLIP + slack


@pytest.mark.parametrize("hostile", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", CLIPPED)
def test_example_that_is_not_finite_contributes_exactly_zero(kind, hostile):
    x, everyone = examples(), jnp.ones(6, bool)
    poisoned = clipped_sum(kind, x.at[2, 1].set(hostile), everyone)
    np.testing.assert_array_equal(
        poisoned, clipped_sum(kind, x, everyone.at[2].set(False))
    )


@pytest.mark.parametrize("kind", CLIPPED)
def test_large_contribution_is_scaled_down_to_the_clip_norm(kind):
    x = 1e3 * jnp.ones((1, 5))
    total = clipped_sum(kind, x, jnp.ones(1, bool))
    np.testing.assert_allclose(np.linalg.norm(total), CLIP, rtol=1e-5)
    assert np.linalg.norm(total) <= CLIP


@pytest.mark.parametrize("kind", EVERY)
def test_microbatches_change_nothing(kind):
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 0.5, "key": 1}
    if kind == "trace":
        options["num_probes"] = 9
    whole = KINDS[kind](examples(7), **options)
    pieces = KINDS[kind](examples(7), microbatch_size=3, **options)
    np.testing.assert_allclose(noised(whole), noised(pieces), rtol=1e-5, atol=1e-6)


# Noise: what is claimed is what is released.


@pytest.mark.parametrize("kind", VECTORS)
def test_noise_has_the_stated_power(kind):
    values = noised(pure_noise(kind, l2_norm_clip=CLIP, noise_multiplier=1.3))
    assert values.size == SIZE
    assert_normal(values, 1.3 * CLIP / 50)


@pytest.mark.parametrize("kind", VECTORS)
def test_measured_noise_over_sensitivity_is_the_noise_multiplier_of_the_event(kind):
    released = pure_noise(kind, noise_multiplier=2.2, l2_norm_clip=3.0)
    measured = noised(released).std() * 50 / 3.0
    # The standard error of a standard deviation is 1 / sqrt(2 n) of it.
    claimed = released.event.noise_multiplier
    assert abs(measured / claimed - 1) < 5 / np.sqrt(2 * SIZE)


@pytest.mark.parametrize("kind", VECTORS)
def test_stderr_is_the_standard_deviation_of_the_noise_in_the_value(kind):
    released = pure_noise(kind, noise_multiplier=2.2, l2_norm_clip=3.0)
    probes = SIZE if kind == "trace" else 1
    expected = 2.2 * 3.0 / 50 / np.sqrt(probes)
    np.testing.assert_allclose(released.stderr, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mean", *map(slow, ["trace", "hvp"])])
def test_noise_does_not_depend_on_the_data(kind):
    noise = noised(pure_noise(kind))
    for x in (examples(), examples().at[0].set(1e30)):
        options = {"num_probes": 5} if kind == "trace" else {}
        loud, exact = (
            noised(
                KINDS[kind](x, key=0, l2_norm_clip=CLIP, noise_multiplier=z, **options)
            )
            for z in (1e3, 0.0)
        )
        np.testing.assert_allclose(
            (loud - exact) * 6 / 1e3, noise[:5] * 50 / 1.3, rtol=1e-4
        )


def test_no_two_kinds_of_release_nor_training_share_noise():
    key, x = 5, jnp.ones((2, SIZE))
    private = optimizers.differentially_private_aggregate(
        1.0, 1.0, key, expected_batch_size=1.0
    )
    state = private.init(jnp.zeros(SIZE))
    step, _ = private.update(x, state, None, mask=jnp.zeros(2, bool))
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "expected_batch_size": 1.0}
    drawn = [noised(pure_noise(kind, key, **options)) for kind in VECTORS]
    drawn.append(np.asarray(step, np.float64))
    # The correlation of independent draws is about N(0, 1 / SIZE).
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(SIZE)
    again = noised(pure_noise("mean", key, **options))
    np.testing.assert_array_equal(again, drawn[0])


@pytest.mark.parametrize("kind", VECTORS)
def test_same_key_repeats_the_noise_and_another_does_not(kind):
    one = noised(pure_noise(kind, 1))
    np.testing.assert_array_equal(one, noised(pure_noise(kind, 1)))
    np.testing.assert_array_equal(one, noised(pure_noise(kind, jax.random.key(1))))
    other = noised(pure_noise(kind, 2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("kind", VECTORS)
def test_without_a_key_every_release_draws_fresh_noise(kind):
    assert not np.array_equal(
        noised(pure_noise(kind, None)), noised(pure_noise(kind, None))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_key_a_traced_release_is_refused(kind):
    def traced(x):
        return KINDS[kind](x, l2_norm_clip=1.0, noise_multiplier=1.0).value

    with pytest.raises(TypeError, match="key=None"):
        jax.jit(traced)(examples())


# The event.


@pytest.mark.parametrize("kind", EVERY)
def test_event_is_one_gaussian_release(kind):
    released = pure_noise(kind, l2_norm_clip=1.0, noise_multiplier=1.7, size=4)
    assert released.event == dp_accounting.GaussianDpEvent(1.7)


@pytest.mark.parametrize("kind", EVERY)
def test_event_of_a_sampled_batch_is_a_sampled_release(kind):
    released = pure_noise(
        kind, l2_norm_clip=1.0, noise_multiplier=1.7, size=4, sampling_prob=0.01
    )
    gaussian = dp_accounting.GaussianDpEvent(1.7)
    assert released.event == dp_accounting.PoissonSampledDpEvent(0.01, gaussian)


@pytest.mark.parametrize("kind", EVERY)
def test_release_without_noise_costs_everything(kind):
    released = pure_noise(kind, l2_norm_clip=1.0, noise_multiplier=0.0, size=4)
    ledger = accounting.PrivacyLedger()
    ledger.spend(released.event, "no noise")
    assert ledger.epsilon(1e-5) == np.inf


# Batches.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [Public, lambda x: x])
def test_batch_that_is_not_private_is_refused(kind, wrap, monkeypatch):
    monkeypatch.setattr("releases.Private", wrap)
    with pytest.raises(TypeError, match=r"Expected Private\(batch\).*exact"):
        KINDS[kind](examples(), l2_norm_clip=1.0, noise_multiplier=1.0, key=0)


@pytest.mark.parametrize(
    "options", [{"mask": jnp.ones(6, bool)}, {"sampling_prob": 0.1}]
)
@pytest.mark.parametrize("kind", EVERY)
def test_mask_or_sampling_needs_a_public_divisor(kind, options):
    with pytest.raises(ValueError, match="Expected expected_batch_size"):
        KINDS[kind](
            examples(), l2_norm_clip=1.0, noise_multiplier=1.0, key=0, **options
        )


@pytest.mark.parametrize("kind", EVERY)
def test_batch_of_no_example_is_pure_noise(kind):
    options = {"key": 3, "l2_norm_clip": 1.0, "noise_multiplier": 1.0}
    nobody = KINDS[kind](jnp.ones((0, 5)), expected_batch_size=4.0, **options)
    masked = KINDS[kind](
        jnp.ones((2, 5)), expected_batch_size=4.0, mask=jnp.zeros(2, bool), **options
    )
    np.testing.assert_array_equal(noised(nobody), noised(masked))
    with pytest.raises(ValueError, match="expected_batch_size"):
        KINDS[kind](jnp.ones((0, 5)), **options)


@pytest.mark.parametrize("kind", EVERY[:-1])
def test_divisor_is_the_public_number_and_not_the_batch_size(kind):
    options = {"key": 3, "l2_norm_clip": 1.0, "noise_multiplier": 1.0}
    fixed = CLIPPED[kind](examples(), **options)
    public = CLIPPED[kind](examples(), expected_batch_size=12.0, **options)
    np.testing.assert_allclose(noised(fixed), 2 * noised(public), rtol=1e-6)
    np.testing.assert_allclose(fixed.stderr, 2 * public.stderr, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("noise_multiplier", -1.0, ValueError),
        ("noise_multiplier", None, TypeError),
        ("sampling_prob", 1.5, ValueError),
        ("expected_batch_size", 0.0, ValueError),
        ("expected_batch_size", 1e-45, ValueError),
        ("microbatch_size", 0, ValueError),
        ("mask", jnp.ones(5, bool), ValueError),
        ("mask", jnp.ones(6), TypeError),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_out_of_range_are_refused_by_name(kind, name, value, error):
    options = {"noise_multiplier": 1.0, "expected_batch_size": 6.0, name: value}
    with pytest.raises(error, match=name):
        KINDS[kind](examples(), l2_norm_clip=1.0, key=0, **options)


def test_noise_multiplier_that_is_traced_is_refused_since_the_event_needs_it():
    def traced(z):
        return KINDS["mean"](examples(), l2_norm_clip=1.0, noise_multiplier=z, key=0)

    with pytest.raises(TypeError, match="noise_multiplier"):
        jax.jit(traced)(1.0)


# jit.


@pytest.mark.parametrize("kind", EVERY)
def test_release_is_the_same_under_jit_and_keeps_its_event(kind):
    def run(x, key):
        return KINDS[kind](
            x,
            key=key,
            l2_norm_clip=1.0,
            noise_multiplier=1.5,
            expected_batch_size=20.0,
            sampling_prob=0.25,
        )

    eager = run(examples(), jax.random.key(2))
    compiled = jax.jit(run)(examples(), jax.random.key(2))
    assert type(compiled) is type(eager)
    assert compiled.event == eager.event
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        compiled,
        eager,
    )


def test_new_values_do_not_compile_anew():
    traces = []

    def function(params, x):
        traces.append(1)
        return params * x

    for i in range(3):
        release.private_mean(
            function,
            jnp.float32(i),
            Private(examples() + i),
            l2_norm_clip=1.0,
            noise_multiplier=1.0,
            key=i,
        )
    assert len(traces) == 1


def test_clip_norm_may_be_a_rule_or_traced():
    rule = clipping.rules.as_rule(0.5)
    options = {"noise_multiplier": 1.0, "key": 0}
    static = KINDS["mean"](examples(), l2_norm_clip=0.5, **options)
    by_rule = KINDS["mean"](examples(), l2_norm_clip=rule, **options)

    def traced(clip):
        return KINDS["mean"](examples(), l2_norm_clip=clip, **options)

    compiled = jax.jit(traced)(0.5)
    for other in (by_rule, compiled):
        np.testing.assert_allclose(noised(static), noised(other), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(static.stderr, other.stderr, rtol=1e-6)


@pytest.mark.parametrize("kind", EVERY)
def test_batch_that_is_spread_over_devices_gives_the_same_release(kind):
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "key": 0}
    rows = NamedSharding(Mesh(jax.devices(), "batch"), PartitionSpec("batch"))
    spread = jax.device_put(examples(), rows)
    assert len(spread.sharding.device_set) == 2
    there, here = (KINDS[kind](x, **options) for x in (spread, examples()))
    np.testing.assert_allclose(noised(there), noised(here), rtol=1e-5, atol=1e-6)
