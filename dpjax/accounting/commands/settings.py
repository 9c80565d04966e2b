"""The run that a command is about."""

import dataclasses
import math

import dp_accounting

from dpjax.accounting import accountants
from dpjax.accounting.events import Event, Relation

UNAMPLIFIED = Relation.REPLACE_SPECIAL
"""The relation of batches that are not drawn: one example is zeroed out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run of DP-SGD; what a command solves for is None.

    Attributes:
      noise_multiplier: noise standard deviation in clip norms, at least 0.
      sampling_prob: probability that an example enters a step, in (0, 1].
      num_steps: steps.
      num_examples: size of the data set, where it was given.
      batch_size: expected batch size, where it was given.
    """

    noise_multiplier: float | None
    sampling_prob: float
    num_steps: int | None
    num_examples: int | None = None
    batch_size: float | None = None

    def event(self) -> Event:
        """Return what the run spends with Poisson sampling."""
        return accountants.dpsgd_event(self._noise, self.sampling_prob, self._steps)

    @property
    def participations(self) -> int:
        """How often an example takes part where every epoch has each of them once.

        An epoch has num_examples / batch_size steps, rounded up: the last may be short.
        """
        if self.num_examples is not None and self.batch_size is not None:
            epoch = self.num_examples / self.batch_size
        else:
            epoch = round(1 / self.sampling_prob, 6)
        return -(-self._steps // max(1, math.ceil(epoch)))

    def unamplified(self) -> Event:
        """Return what it spends with fixed or shuffled batches, under `UNAMPLIFIED`.

        Whatever the order, an example is in one batch an epoch, and shuffling can be
        trusted with nothing more.

        References:
          Chua et al. (2024), How private are DP-SGD implementations?
        """
        step = dp_accounting.GaussianDpEvent(self._noise)
        return dp_accounting.SelfComposedDpEvent(step, self.participations)

    @property
    def _noise(self) -> float:
        assert self.noise_multiplier is not None
        return self.noise_multiplier

    @property
    def _steps(self) -> int:
        assert self.num_steps is not None
        return self.num_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command was told.

    Attributes:
      run: the run.
      delta: in (0, 1), or None where it is asked for.
      epsilon: nats, at least 0; None where it is asked for.
      accountant: name of the accountant.
      group_sizes: for how many examples of one person the guarantee is asked for.
      points: points of a curve.
    """

    run: Run
    delta: float | None
    epsilon: float | None
    accountant: str
    group_sizes: tuple[int, ...] = ()
    points: int = 20
