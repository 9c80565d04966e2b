"""The run that a command is about."""

import dp_accounting
import pytest

from dpjax import accounting, sampling
from dpjax.accounting.commands import settings


def run(rate=0.01, steps=1000, noise=1.0, **sizes):
    return settings.Run(
        noise_multiplier=noise, sampling_prob=rate, num_steps=steps, **sizes
    )


def test_the_event_is_that_of_poisson_sampled_steps():
    step = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
    assert run().event() == dp_accounting.SelfComposedDpEvent(step, 1000)


@pytest.mark.parametrize(
    ("rate", "steps", "times"),
    [
        (0.01, 0, 0),
        (0.01, 1, 1),
        (0.01, 100, 1),
        (0.01, 101, 2),
        (0.01, 1000, 10),
        (1 / 3, 9, 3),
        (0.3, 9, 3),
        (0.7, 9, 5),
        (1.0, 9, 9),
        (1e-12, 10**9, 1),
    ],
)
def test_an_example_takes_part_once_in_every_epoch_begun(rate, steps, times):
    assert run(rate, steps).participations == times


@pytest.mark.parametrize(
    ("count", "batch", "steps"),
    [(60000, 256, 15000), (13, 4, 9), (100, 100, 7), (1000, 333, 4), (7, 2, 1)],
)
def test_shuffled_batches_are_accounted_for_as_the_sampler_does(count, batch, steps):
    told = run(batch / count, steps, 2.0, num_examples=count, batch_size=batch)
    sampler = sampling.ShuffledEpochs()
    event = sampler.event(
        noise_multiplier=2.0,
        num_examples=count,
        expected_batch_size=batch,
        num_steps=steps,
    )
    expected = accounting.event_epsilon(event, 1e-5, relation=sampler.relation)
    found = accounting.event_epsilon(
        told.unamplified(), 1e-5, relation=settings.UNAMPLIFIED
    )
    assert found == expected
