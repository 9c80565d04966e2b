import math

import jax
import numpy as np
import pytest

from dpjax import sampling
from dpjax.mechanism import DPSGD, NonPrivate

SHUFFLED = sampling.ShuffledEpochs()
SAMPLERS = [
    sampling.Poisson(),
    sampling.TruncatedPoisson(22),
    sampling.CyclicPoisson(3),
    sampling.FixedSize(),
    sampling.FixedSizeWithReplacement(),
    sampling.Deterministic(),
    SHUFFLED,
]


def dpsgd(**changes):
    constants = {"num_examples": 200, "expected_batch_size": 20, "num_steps": 30}
    return DPSGD(**constants | {"l2_norm_clip": 1.0, "noise_multiplier": 1.1} | changes)


def nonprivate(**changes):
    constants = {"num_examples": 200, "expected_batch_size": 20, "num_steps": 30}
    return NonPrivate(**constants | changes)


both = pytest.mark.parametrize("make", [dpsgd, nonprivate])


def drawn(chunks):
    """Return the indices of one step, in order, without padding."""
    return np.concatenate([chunk.indices[chunk.mask] for chunk in chunks])


def steps_of(mechanism, key=3, start_step=0):
    return [drawn(chunks) for chunks in mechanism.batches(key, start_step)]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


@both
def test_sampling_is_poisson_where_nothing_is_said(make):
    assert make().sampling_prob == 0.1
    assert_same(steps_of(make()), steps_of(make(sampler=sampling.Poisson())))


def test_batches_hold_examples_as_often_as_the_event_says():
    mechanism = dpsgd(num_steps=500)
    q = mechanism.event().event.sampling_probability
    steps = steps_of(mechanism)
    share = sum(map(len, steps)) / (200 * 500)
    # The standard error of a mean of 100,000 coins.
    error = math.sqrt(q * (1 - q) / (200 * 500))
    assert abs(share - q) < 5 * error
    assert abs(share - q * 2 / 3) > 5 * error
    assert abs(share - q * 3 / 2) > 5 * error
    assert all(len(np.unique(step)) == len(step) for step in steps)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_batches_have_the_expected_size_in_the_mean(sampler):
    sizes = [len(step) for step in steps_of(dpsgd(sampler=sampler, num_steps=300))]
    # A truncated draw is a little smaller: E min(Binomial(200, 0.1), 22) = 19.107.
    expected = 19.107 if isinstance(sampler, sampling.TruncatedPoisson) else 20.0
    assert np.mean(sizes) == pytest.approx(expected, abs=5 * math.sqrt(20 / 300))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_nearly_every_batch_fits_into_one_chunk(sampler):
    chunks = [len(step) for step in dpsgd(sampler=sampler, num_steps=300).batches(3)]
    assert np.mean(chunks) < 1.02


@pytest.mark.parametrize("sampler", [sampling.Deterministic(), SHUFFLED])
def test_epochs_hold_each_example_once(sampler):
    steps = steps_of(dpsgd(sampler=sampler))
    assert [len(step) for step in steps] == [20] * 30
    for epoch in range(3):
        order = np.concatenate(steps[10 * epoch : 10 * (epoch + 1)])
        assert sorted(order) == list(range(200))


@both
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("start_step", [0, 1, 17, 30])
def test_batches_resumed_at_a_step_are_those_of_a_run_never_stopped(
    make, sampler, start_step
):
    mechanism = make(sampler=sampler)
    resumed = steps_of(mechanism, start_step=start_step)
    assert_same(resumed, steps_of(mechanism)[start_step:])


@pytest.mark.parametrize("static_batch_size", [1, 7, 20, 64])
def test_no_draw_is_truncated_by_the_static_batch_size(static_batch_size):
    mechanism = dpsgd(static_batch_size=static_batch_size)
    for chunks in mechanism.batches(3):
        assert {chunk.indices.shape for chunk in chunks} == {(static_batch_size,)}
        assert {chunk.mask.shape for chunk in chunks} == {(static_batch_size,)}
    assert_same(steps_of(mechanism), steps_of(dpsgd()))


def test_chunk_size_holds_nearly_every_draw_unless_it_is_given():
    assert dpsgd().chunk_size == sampling.default_chunk_size(200, 20)
    assert dpsgd(static_batch_size=5).chunk_size == 5
    assert dpsgd(sampler=SHUFFLED).chunk_size == 20
    assert {len(chunks) for chunks in dpsgd().batches(3)} == {1}


def test_all_forms_of_one_key_draw_the_same_batches():
    keys = 3, jax.random.key(3), np.array([0, 3], np.uint32)
    first, *others = (steps_of(dpsgd(), key) for key in keys)
    for other in others:
        assert_same(first, other)
    assert not np.array_equal(first[0], steps_of(dpsgd(), 4)[0])


def test_whole_data_set_in_every_batch_is_legal():
    mechanism = dpsgd(expected_batch_size=200, num_steps=2)
    assert mechanism.sampling_prob == 1.0
    assert_same(steps_of(mechanism), [np.arange(200)] * 2)


def test_empty_draw_is_one_masked_chunk():
    mechanism = dpsgd(expected_batch_size=1e-9, num_steps=3)
    for chunks in mechanism.batches(3):
        assert len(chunks) == 1
        assert not chunks[0].mask.any()


@both
def test_constants_are_kept_as_plain_numbers(make):
    mechanism = make(
        num_examples=np.int64(200),
        expected_batch_size=np.float32(20),
        num_steps=np.int32(30),
        static_batch_size=np.uint8(8),
    )
    kept = (
        mechanism.num_examples,
        mechanism.expected_batch_size,
        mechanism.num_steps,
        mechanism.static_batch_size,
    )
    assert list(map(type, kept)) == [int, float, int, int]
    assert mechanism == make(static_batch_size=8)
    whole = make(expected_batch_size=np.int64(20), sampler=SHUFFLED)
    assert type(whole.expected_batch_size) is int


BAD = {
    "no examples": ({"num_examples": 0}, ValueError, "num_examples=0"),
    "half an example": ({"num_examples": 200.0}, TypeError, "num_examples="),
    "truth as a number": ({"num_examples": True}, TypeError, "num_examples="),
    "batch of none": ({"expected_batch_size": 0}, ValueError, "expected_batch_size=0"),
    "negative batch": ({"expected_batch_size": -1.0}, ValueError, "expected_batch_"),
    "NaN batch": ({"expected_batch_size": math.nan}, ValueError, "finite number"),
    "infinite batch": ({"expected_batch_size": math.inf}, ValueError, "finite number"),
    "batch of text": ({"expected_batch_size": "20"}, TypeError, "real number"),
    "batch larger than the data": (
        {"expected_batch_size": 201},
        ValueError,
        "at most num_examples=200, got expected_batch_size=201",
    ),
    "negative steps": ({"num_steps": -1}, ValueError, "num_steps=-1"),
    "half a step": ({"num_steps": 0.5}, TypeError, "num_steps=0.5"),
    "chunks of none": ({"static_batch_size": 0}, ValueError, "static_batch_size=0"),
    "sampler by name": ({"sampler": "poisson"}, TypeError, "a sampler"),
    "sampler class": ({"sampler": sampling.Poisson}, TypeError, "a sampler"),
    "fraction of a fixed batch": (
        {"sampler": SHUFFLED, "expected_batch_size": 20.5},
        TypeError,
        "expected_batch_size=20.5",
    ),
}


@both
@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_constants_out_of_range_are_refused(make, changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


@both
@pytest.mark.parametrize("start_step", [-1, 31, 2.0])
def test_start_step_must_be_a_step_of_the_plan(make, start_step):
    with pytest.raises((ValueError, TypeError), match="start_step"):
        make().batches(3, start_step)


@both
def test_unknown_constants_are_refused(make):
    with pytest.raises(TypeError, match="batchsize"):
        make(batchsize=3)
