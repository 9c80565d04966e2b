"""What samplers draw, for tests."""

import numpy as np
from scipy import stats

KEY = np.array([12, 345], np.uint32)


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


def event(sampler, noise_multiplier, num_examples, batch, num_steps):
    return sampler.event(
        noise_multiplier=noise_multiplier,
        num_examples=num_examples,
        expected_batch_size=batch,
        num_steps=num_steps,
    )
