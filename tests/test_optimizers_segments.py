import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.optimizers import segments
from dpjax.optimizers.segments import CAPACITY, count_step, read, settings_words

EXACT = [0.1, 1 / 3, 1e-12, 1.1, 5e-324, 2.0**-1022, 0.0, 1e308, float(2**53 - 1)]


def counted(*settings):
    table = segments.empty()
    for setting in settings:
        table = count_step(table, settings_words(*setting))
    return table


def traced_words(noise_multiplier, sampling_prob, dtype=jnp.float32):
    values = (dtype(noise_multiplier), dtype(sampling_prob))
    return jax.jit(settings_words)(*values)


def test_empty_table_has_no_row():
    assert read(segments.empty()) == []


@pytest.mark.parametrize("noise_multiplier", EXACT)
def test_static_settings_come_back_exactly(noise_multiplier):
    assert read(counted((noise_multiplier, 1 / 3))) == [(noise_multiplier, 1 / 3, 1)]


def test_numpy_settings_come_back_as_the_numbers_they_are():
    table = counted((np.float64(0.1), np.float32(0.1)), (np.float32(0.1), 1.0))
    narrow = float(np.float32(0.1))
    assert read(table) == [(0.1, narrow, 1), (narrow, 1.0, 1)]


@pytest.mark.parametrize(
    "value", [1e-37, 0.1, 1 / 3, 1.0, 1.5, 3.4e38, float(np.float32(1) + 2**-23)]
)
def test_traced_float32_settings_come_back_as_the_float32_they_are(value):
    table = count_step(segments.empty(), traced_words(value, min(value, 1.0)))
    expected = float(np.float32(value))
    assert read(table) == [(expected, min(expected, 1.0), 1)]


def test_traced_float64_settings_come_back_exactly():
    with jax.enable_x64(True):
        words = traced_words(0.1, 1 / 3, jnp.float64)
        nothing = traced_words(np.nan, np.nan, jnp.float64)
        negative = traced_words(-1.5, -0.25, jnp.float64)
    for found, expected in [
        (words, (0.1, 1 / 3, 1)),
        (nothing, (0.0, 1.0, 1)),
        (negative, (1.5, 1.0, 1)),
    ]:
        assert found.dtype == jnp.uint32
        assert read(count_step(segments.empty(), found)) == [expected]


def test_traced_integers_are_settings_too():
    words = jax.jit(settings_words)(jnp.int32(2), jnp.int32(1))
    assert read(count_step(segments.empty(), words)) == [(2.0, 1.0, 1)]


@pytest.mark.parametrize(
    ("noise_multiplier", "as_read"),
    [(np.nan, 0.0), (1e-40, 0.0), (0.0, 0.0), (-0.0, 0.0), (-2.0, 2.0)],
)
def test_traced_noise_out_of_range_is_read_as_no_more_than_it_is(
    noise_multiplier, as_read
):
    words = traced_words(noise_multiplier, 0.5)
    assert read(count_step(segments.empty(), words)) == [(as_read, 0.5, 1)]


@pytest.mark.parametrize("sampling_prob", [0.0, -0.0, -0.1, 1e-40, 1.5, np.inf, np.nan])
def test_traced_sampling_out_of_range_is_read_as_no_amplification(sampling_prob):
    words = traced_words(1.0, sampling_prob)
    assert read(count_step(segments.empty(), words)) == [(1.0, 1.0, 1)]


def test_steps_under_equal_settings_are_counted_in_one_row():
    table = counted((1.0, 0.1), (2.0, 0.1), (1.0, 0.1), (1.0, 0.2), (1.0, 0.1))
    assert read(table) == [(1.0, 0.1, 3), (2.0, 0.1, 1), (1.0, 0.2, 1)]


def test_settings_that_differ_in_the_last_bit_are_different_segments():
    above = np.nextafter(0.1, 1)
    assert read(counted((1.0, 0.1), (1.0, above))) == [(1.0, 0.1, 1), (1.0, above, 1)]


def test_noise_zero_is_a_setting_and_not_a_free_row():
    table = counted((0.0, 1.0), (0.0, 1.0), (1.0, 1.0))
    assert read(table) == [(0.0, 1.0, 2), (1.0, 1.0, 1)]


def test_counters_are_right_after_ten_million_steps():
    words = jnp.stack([settings_words(1.1, 0.1), settings_words(0.7, 0.1)])
    table = counted((1.1, 0.1), (0.7, 0.1))
    # float32 stops counting by ones at 2^24 = 16,777,216.
    table = table._replace(steps=table.steps.at[:2].set(jnp.uint32([10**7, 2**24])))

    @jax.jit
    def run(table):
        def body(step, table):
            return count_step(table, words[step % 2])

        return jax.lax.fori_loop(0, 1001, body, table)

    assert read(run(table)) == [(1.1, 0.1, 10**7 + 501), (0.7, 0.1, 2**24 + 500)]


def test_ten_million_steps_are_counted_one_by_one():
    words = settings_words(1.1, 0.1)

    @jax.jit
    def run(table):
        return jax.lax.fori_loop(0, 10**7, lambda _, t: count_step(t, words), table)

    assert read(run(segments.empty())) == [(1.1, 0.1, 10**7)]


def test_full_table_merges_into_what_is_no_better_than_any_of_its_steps():
    generator = np.random.default_rng(0)
    settings = generator.uniform(0.5, 2.0, 200), generator.uniform(0.01, 0.9, 200)
    rows = jax.vmap(settings_words)(*map(jnp.float32, settings))
    table, _ = jax.lax.scan(
        lambda table, words: (count_step(table, words), None), segments.empty(), rows
    )
    found = read(table)
    assert len(found) == CAPACITY
    assert sum(row.steps for row in found) == 200
    merged, used = found[-1], np.float32(settings)[:, CAPACITY - 1 :]
    assert merged.noise_multiplier == float(used[0].min())
    assert merged.sampling_prob == float(used[1].max())
    assert merged.steps == 200 - CAPACITY + 1
    for row, noise, prob in zip(found[:-1], *np.float32(settings), strict=False):
        assert row == (float(noise), float(prob), 1)


def test_full_table_still_counts_settings_that_it_knows_in_their_own_rows():
    rows = [(1.0 + i, 0.5) for i in range(CAPACITY + 3)]
    table = counted(*rows, rows[4])
    assert read(table)[4] == (5.0, 0.5, 2)
    assert sum(row.steps for row in read(table)) == CAPACITY + 4
