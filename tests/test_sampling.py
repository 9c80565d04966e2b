import itertools
import math
import tracemalloc

import dp_accounting
import jax
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from dpjax.sampling import IndexChunk, Poisson, ShuffledEpochs, default_chunk_size

KEY = np.array([12, 345], np.uint32)
SAMPLERS = [Poisson(), ShuffledEpochs()]


def run(sampler, num_examples, batch, num_steps, *, key=KEY, **options):
    options = {"chunk_size": num_examples, **options}
    return sampler.batches(
        key,
        num_examples=num_examples,
        expected_batch_size=batch,
        num_steps=num_steps,
        **options,
    )


def drawn(chunks):
    return np.concatenate([chunk.indices[chunk.mask] for chunk in chunks])


def draws(sampler, num_examples, batch, num_steps, **options):
    return [drawn(s) for s in run(sampler, num_examples, batch, num_steps, **options)]


def inclusions(sampler, num_examples, batch, num_steps, **options):
    """Return who enters which step: float, (num_steps, num_examples)."""
    table = np.zeros((num_steps, num_examples))
    for row, indices in zip(
        table, draws(sampler, num_examples, batch, num_steps, **options), strict=True
    ):
        np.add.at(row, indices, 1)
    return table


def two_sided(statistic, degrees):
    """Return the p-value of a chi-square statistic, too small ones counted as well."""
    tails = stats.chi2.sf(statistic, degrees), stats.chi2.cdf(statistic, degrees)
    return 2 * min(tails)


# Both samplers.


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_draw_has_repeats_and_every_index_is_in_range(sampler):
    for indices in draws(sampler, 100, 30, 200):
        assert len(np.unique(indices)) == len(indices)
        assert indices.dtype == np.int32
        assert np.all((indices >= 0) & (indices < 100))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("chunk_size", [1, 7, 30, 100, 1000])
def test_a_draw_larger_than_a_chunk_goes_into_further_chunks_and_loses_nothing(
    sampler, chunk_size
):
    whole = draws(sampler, 100, 30, 20)
    for step, expected in zip(
        run(sampler, 100, 30, 20, chunk_size=chunk_size), whole, strict=True
    ):
        np.testing.assert_array_equal(drawn(step), expected)
        assert len(step) == max(1, math.ceil(len(expected) / chunk_size))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chunks_have_one_shape_and_their_padding_is_index_zero(sampler):
    for chunk in itertools.chain(*run(sampler, 100, 30, 20, chunk_size=8)):
        assert isinstance(chunk, IndexChunk)
        assert chunk.indices.shape == chunk.mask.shape == (8,)
        assert chunk.indices.dtype == np.int32
        assert chunk.mask.dtype == np.bool_
        assert not chunk.indices[~chunk.mask].any()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start_step", [0, 1, 3, 4, 9, 10])
def test_a_resumed_run_sees_exactly_the_rest(sampler, start_step):
    whole = draws(sampler, 100, 30, 10)
    rest = draws(sampler, 100, 30, 10, start_step=start_step)
    assert len(rest) == 10 - start_step
    for resumed, expected in zip(rest, whole[start_step:], strict=True):
        np.testing.assert_array_equal(resumed, expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_do_not_depend_on_how_many_follow(sampler):
    for short, long in zip(
        draws(sampler, 100, 30, 3), draws(sampler, 100, 30, 9), strict=False
    ):
        np.testing.assert_array_equal(short, long)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_keys_and_other_steps_draw_otherwise(sampler):
    keys = [[12, 345], [12, 346], [13, 345], [345, 12]]
    seen = {
        draw.tobytes()
        for key in keys
        for draw in draws(sampler, 100, 30, 5, key=np.array(key, np.uint32))
    }
    assert len(seen) == 20


def test_samplers_do_not_share_their_random_numbers():
    poisson = inclusions(Poisson(), 1000, 100, 10)
    shuffled = inclusions(ShuffledEpochs(), 1000, 100, 10)
    correlation = np.corrcoef(poisson.ravel(), shuffled.ravel())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(10_000)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_keys_may_be_arrays_on_a_device(sampler):
    (host,) = draws(sampler, 100, 30, 1)
    (device,) = draws(sampler, 100, 30, 1, key=jax.numpy.asarray(KEY))
    np.testing.assert_array_equal(host, device)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_steps_are_no_batches_and_spend_nothing(sampler):
    assert list(run(sampler, 100, 30, 0)) == []
    assert event(sampler, 1.0, 100, 30, 0) == dp_accounting.NoOpDpEvent()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_values_with_a_statement(sampler):
    assert sampler == type(sampler)()
    assert hash(sampler) == hash(type(sampler)())
    assert sampler.statement.endswith(".")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"num_examples": 0}, ValueError, "an integer >= 1"),
        ({"num_examples": 1e3}, TypeError, "an integer"),
        ({"num_examples": 2**31}, ValueError, r"at most 2\*\*31 - 1 examples"),
        ({"expected_batch_size": 101}, ValueError, "at most num_examples=100"),
        ({"expected_batch_size": 0}, ValueError, "(a number > 0|an integer >= 1)"),
        ({"expected_batch_size": -3}, ValueError, "(a number > 0|an integer >= 1)"),
        ({"expected_batch_size": math.nan}, (ValueError, TypeError), "(a fin|an int)"),
        ({"expected_batch_size": None}, TypeError, "(a real number|an integer)"),
        ({"num_steps": -1}, ValueError, "an integer >= 0"),
        ({"num_steps": 1.5}, TypeError, "an integer"),
        ({"chunk_size": 0}, ValueError, "an integer >= 1"),
        ({"start_step": -1}, ValueError, "an integer >= 0"),
        ({"start_step": 11}, ValueError, "at most num_steps=10"),
        ({"key_data": np.zeros(3, np.uint32)}, ValueError, r"key data of shape \(2,\)"),
        ({"key_data": np.zeros(2, np.int64)}, TypeError, "uint32 key data"),
        ({"key_data": 7}, TypeError, "uint32 key data"),
    ],
    ids=repr,
)
def test_bad_settings_are_refused_before_the_first_batch(
    sampler, change, error, expected
):
    settings = {
        "key_data": KEY,
        "num_examples": 100,
        "expected_batch_size": 30,
        "num_steps": 10,
        "chunk_size": 8,
        **change,
    }
    with pytest.raises(
        error, match=f"Expected {expected}.*, got .*{next(iter(change))}"
    ):
        sampler.batches(settings.pop("key_data"), **settings)


# Poisson sampling.


def rate_p_value(table, q):
    """Test that each example enters a binomial number of steps of probability q."""
    num_steps, num_examples = table.shape
    variance = num_steps * q * (1 - q)
    squares = (table.sum(axis=0) - num_steps * q) ** 2 / variance
    return two_sided(squares.sum(), num_examples)


@pytest.mark.parametrize("q", [0.01, 0.1, 0.5, 0.9])
def test_each_example_enters_with_the_stated_probability(q):
    table = inclusions(Poisson(), 200, 200 * q, 4000)
    assert rate_p_value(table, q) > 1e-3
    assert rate_p_value(table, q * 2 / 3) < 1e-6
    assert rate_p_value(table, min(q * 3 / 2, 0.99)) < 1e-6


def pairs_p_value(table, q):
    """Test that no two examples attract or avoid each other."""
    scores = (table - q) / math.sqrt(q * (1 - q))
    covariances = scores.T @ scores / math.sqrt(len(table))
    pairs = covariances[np.triu_indices_from(covariances, 1)]
    return two_sided((pairs**2).sum(), pairs.size)


def test_examples_enter_independently_of_each_other():
    assert pairs_p_value(inclusions(Poisson(), 40, 8, 5000), 0.2) > 1e-3


def test_batches_of_fixed_size_do_not_pass_for_independent_ones():
    # Power: without replacement, pairs have correlation -1 / (num_examples - 1).
    rng = np.random.default_rng(0)
    table = np.stack([rng.permuted(np.arange(40) < 8) for _ in range(5000)])
    assert pairs_p_value(table, 0.2) < 1e-6


def test_steps_are_independent_of_each_other():
    table = inclusions(Poisson(), 100, 20, 5000)
    scores = (table - 0.2) / 0.4
    for lag in (1, 2, 7):
        correlation = (scores[lag:] * scores[:-lag]).mean()
        assert abs(correlation) < 5 / math.sqrt(scores[lag:].size)


def sizes_p_value(sizes, num_examples, q):
    """Test that sizes are binomial, over bins of at least five expected draws."""
    law = stats.binom(num_examples, q)
    edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 25)))
    expected = np.diff(law.cdf([-1, *edges, num_examples])) * len(sizes)
    bins = np.searchsorted(edges, sizes)
    return stats.chisquare(np.bincount(bins, minlength=len(expected)), expected).pvalue


@pytest.mark.parametrize(("num_examples", "q"), [(50, 0.1), (1000, 0.02), (300, 0.5)])
def test_the_size_of_a_draw_is_binomial(num_examples, q):
    table = draws(Poisson(), num_examples, num_examples * q, 4000)
    sizes = np.array([len(draw) for draw in table])
    assert sizes_p_value(sizes, num_examples, q) > 1e-3
    assert sizes_p_value(sizes, num_examples, q * 2 / 3) < 1e-6
    assert sizes_p_value(sizes, num_examples, q * 3 / 2) < 1e-6


def test_position_does_not_matter():
    # The first and the last example have no neighbour on one side.
    table = inclusions(Poisson(), 5, 1.5, 20_000)
    error = math.sqrt(0.3 * 0.7 / 20_000)
    np.testing.assert_allclose(table.mean(axis=0), 0.3, atol=5 * error)


def test_an_empty_draw_is_a_legal_step():
    steps = list(run(Poisson(), 1000, 0.01, 50, chunk_size=8))
    assert len(steps) == 50
    empty = [step for step in steps if not drawn(step).size]
    assert len(empty) > 40
    for (chunk,) in empty:
        assert chunk.indices.shape == (8,)
        assert not chunk.mask.any()


def test_probability_one_takes_every_example_every_time():
    for draw in draws(Poisson(), 100, 100, 3):
        np.testing.assert_array_equal(draw, np.arange(100))
    assert Poisson().sampling_prob(num_examples=100, expected_batch_size=100) == 1.0


@given(st.integers(1, 500), st.floats(1e-6, 1.0), st.integers(0, 2**40))
def test_any_draw_ascends_and_stays_in_range(num_examples, q, start_step):
    (draw,) = draws(
        Poisson(), num_examples, q * num_examples, start_step + 1, start_step=start_step
    )
    assert np.all(np.diff(draw) > 0)
    assert not draw.size or (draw[0] >= 0 and draw[-1] < num_examples)


def test_memory_follows_the_batch_and_not_the_data_set():
    tracemalloc.start()
    (draw,) = draws(Poisson(), 2**31 - 1, 1000, 1, chunk_size=1096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 800 < len(draw) < 1200
    assert draw[-1] > 2**30
    assert peak < 500_000


def test_a_key_draws_the_same_examples_for_ever():
    expected = {
        Poisson(): [[3, 6, 7, 10, 12, 14, 18, 19]],
        ShuffledEpochs(): [[1, 9, 3, 18, 2]],
    }
    for sampler, draw in expected.items():
        assert [d.tolist() for d in draws(sampler, 20, 5, 1)] == draw


# Shuffled epochs.


@pytest.mark.parametrize(("num_examples", "batch"), [(12, 4), (13, 4), (5, 5), (3, 1)])
def test_each_epoch_is_a_permutation_in_batches_of_fixed_size(num_examples, batch):
    steps = math.ceil(num_examples / batch)
    drawn_steps = draws(ShuffledEpochs(), num_examples, batch, 3 * steps)
    rest = num_examples % batch or batch
    assert [len(d) for d in drawn_steps] == 3 * [*[batch] * (steps - 1), rest]
    for epoch in range(3):
        order = np.concatenate(drawn_steps[epoch * steps : (epoch + 1) * steps])
        np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_epochs_have_orders_of_their_own():
    orders = draws(ShuffledEpochs(), 50, 50, 10)
    assert len({order.tobytes() for order in orders}) == 10


def test_every_order_is_as_likely_as_any_other():
    orders = draws(ShuffledEpochs(), 4, 4, 4800)
    ranks = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    counts = np.bincount([ranks[tuple(order)] for order in orders], minlength=24)
    assert two_sided(((counts - 200) ** 2 / 200).sum(), 23) > 1e-3


@pytest.mark.parametrize("batch", [30.0, 29.5])
def test_shuffled_batches_have_an_integer_size(batch):
    with pytest.raises(
        TypeError, match="Expected an integer, got expected_batch_size="
    ):
        run(ShuffledEpochs(), 100, batch, 10)


# What a run is worth.


def event(sampler, noise_multiplier, num_examples, batch, num_steps):
    return sampler.event(
        noise_multiplier=noise_multiplier,
        num_examples=num_examples,
        expected_batch_size=batch,
        num_steps=num_steps,
    )


def pld_epsilon(sampler, delta, *settings):
    accountant = dp_accounting.pld.PLDAccountant(sampler.relation)
    return accountant.compose(event(sampler, *settings)).get_epsilon(delta)


def gaussian_epsilon(noise_multiplier, releases, delta):
    """Return the exact epsilon of composed Gaussians (Balle and Wang 2018, Thm 8)."""
    mu = math.sqrt(releases) / noise_multiplier

    def excess(epsilon):
        tails = stats.norm.logcdf([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu])
        return math.exp(tails[0]) - math.exp(epsilon + tails[1]) - delta

    return optimize.brentq(excess, 0, 100, xtol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 5, 8, 41])
def test_shuffled_epochs_spend_one_gaussian_an_epoch_begun(num_steps):
    # 13 examples in batches of 4: 4 steps an epoch.
    epsilon = pld_epsilon(ShuffledEpochs(), 1e-5, 2.0, 13, 4, num_steps)
    closed_form = gaussian_epsilon(2.0, math.ceil(num_steps / 4), 1e-5)
    assert epsilon == pytest.approx(closed_form, rel=1e-5)


@pytest.mark.parametrize("num_steps", [1, 4, 5, 41])
def test_shuffled_epochs_are_accounted_for_what_is_really_drawn(num_steps):
    taken = inclusions(ShuffledEpochs(), 13, 4, num_steps).sum(axis=0).max()
    spent = event(ShuffledEpochs(), 2.0, 13, 4, num_steps)
    assert spent == dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(2.0), int(taken)
    )


def test_shuffled_epochs_claim_no_amplification_and_zeroing_out_as_relation():
    sampler = ShuffledEpochs()
    assert sampler.sampling_prob(num_examples=100, expected_batch_size=30) is None
    assert sampler.relation is NeighboringRelation.REPLACE_SPECIAL
    assert "without amplification" in sampler.statement


def test_poisson_spends_the_published_epsilon():
    # Noise 1, q = 0.01, 1000 steps, delta 1e-5: 1.82824 (dp_accounting's PLD, and the
    # exact inversion of the privacy loss's transform).
    epsilon = pld_epsilon(Poisson(), 1e-5, 1.0, 100_000, 1000, 1000)
    assert epsilon == pytest.approx(1.82824, abs=2e-4)


def test_poisson_with_probability_one_spends_plain_gaussians():
    epsilon = pld_epsilon(Poisson(), 1e-5, 2.0, 100, 100, 9)
    assert epsilon == pytest.approx(gaussian_epsilon(2.0, 9, 1e-5), rel=1e-5)


def test_poisson_states_probability_and_relation():
    sampler = Poisson()
    assert sampler.sampling_prob(num_examples=100, expected_batch_size=30) == 0.3
    assert sampler.relation is NeighboringRelation.ADD_OR_REMOVE_ONE
    assert "counts on this amplification" in sampler.statement


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_noise_spends_everything(sampler):
    assert pld_epsilon(sampler, 1e-5, 0.0, 100, 30, 1) == math.inf


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("noise_multiplier", "error"),
    [(-1.0, ValueError), (math.nan, ValueError), (None, TypeError)],
)
def test_an_event_has_a_lawful_noise_multiplier(sampler, noise_multiplier, error):
    with pytest.raises(error, match=r"Expected a .*, got noise_multiplier="):
        event(sampler, noise_multiplier, 100, 30, 1)


# The size of a chunk.


@pytest.mark.parametrize(
    ("num_examples", "batch"),
    [(1000, 1), (1000, 10), (4000, 1000), (60_000, 1000), (10**6, 256), (100, 3)],
)
def test_a_default_chunk_holds_nearly_every_draw_and_pads_little(num_examples, batch):
    size = default_chunk_size(num_examples, batch)
    assert size % 8 == 0
    assert stats.binom.sf(size, num_examples, batch / num_examples) < 0.005
    assert size <= batch + 3 * math.sqrt(batch) + 9


@pytest.mark.parametrize(("num_examples", "batch"), [(4000, 1000), (60_000, 1000)])
def test_a_default_chunk_is_near_the_cheapest_that_takes_a_typical_draw(
    num_examples, batch
):
    law = stats.binom(num_examples, batch / num_examples)

    def slots(size):
        return size * (1 + law.sf(np.arange(1, 20) * size).sum())

    cheapest = min(slots(size) for size in range(batch + 8, 2 * batch, 8))
    assert slots(default_chunk_size(num_examples, batch)) < 1.05 * cheapest


@pytest.mark.parametrize("num_examples", [1, 5, 100])
def test_a_default_chunk_is_never_larger_than_the_data(num_examples):
    assert default_chunk_size(num_examples, num_examples) == num_examples
    assert default_chunk_size(num_examples, 0.9 * num_examples) == num_examples


def test_a_default_chunk_of_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="Expected at most num_examples=10, got exp"):
        default_chunk_size(10, 11)
