"""What a sampler lets one example do, and what correlated noise is worth then."""

import functools
import math
from typing import NoReturn

from dpjax import sampling
from dpjax.accounting import AccountingError
from dpjax.noise import correlated


def participation_of(
    sampler: sampling.Sampler, num_examples: int, expected_batch_size: float
) -> correlated.Participation:
    """Return at which steps one example can take part, whatever is drawn.

    Raises:
      AccountingError: a sampler that lets an example take part at any step, or of which
        nothing is known.

    >>> participation_of(sampling.Deterministic(), 100, 30)
    Cyclic(period=4)
    """
    epoch = math.ceil(num_examples / expected_batch_size)
    if type(sampler) is sampling.Deterministic:
        return correlated.Cyclic(epoch)
    if type(sampler) is sampling.ShuffledEpochs:
        return correlated.OncePerEpoch(epoch)
    if type(sampler) is sampling.CyclicPoisson:
        return correlated.Cyclic(sampler.period)
    if type(sampler) is sampling.BMinSep:
        return correlated.MinSeparation(sampler.min_separation)
    return _refuse(sampler)


def is_amplified(
    sampler: sampling.Sampler, strategy: correlated.Strategy, num_steps: int
) -> bool:
    """Tell whether sampling amplifies: participations are drawn, and do not add up."""
    return (
        isinstance(sampler, sampling.CyclicPoisson)
        and strategy.bands(num_steps) <= sampler.period
    )


@functools.lru_cache(maxsize=64)
def strategy_sensitivity(
    strategy: correlated.Strategy,
    num_steps: int,
    participation: correlated.Participation,
    amplified: bool,
) -> correlated.Sensitivity:
    """Return the sensitivity of C that the noise multiplier is a multiple of."""
    if amplified:
        period = participation.separation(num_steps)
        value = correlated.separate_sensitivity(strategy, num_steps, period)
        return correlated.Sensitivity(value, True)
    return correlated.sensitivity(strategy, num_steps, participation)


def _refuse(sampler: sampling.Sampler) -> NoReturn:
    raise AccountingError(
        "Expected a sampler that bounds at which steps an example takes part, got "
        f"sampler={sampler!r}. With correlated noise its participations add up: use "
        "Deterministic, ShuffledEpochs, CyclicPoisson or BMinSep; or DPSGD with this "
        "sampler, where noise is independent."
    )
