"""Privacy filters of one number: by rho of zCDP, and for plain Gaussian releases."""

import math

import dp_accounting

from dpjax import _check
from dpjax.accounting import accountants, calibration, events, views
from dpjax.accounting.epsilon import AccountingError
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter


class ConcentratedFilter(PrivacyFilter):
    """A filter that adds up rho of zero-concentrated privacy: for Gaussian-like noise.

    The rule is the same at all orders, sum of rho at most a total, so that no order is
    to be chosen. Sampling is not amplified: `RenyiFilter` is for that.

    Guarantee: as `PrivacyFilter`; what is admitted is rho-zCDP, with `.event`'s rho.

    Args:
      budget: `Budget(epsilon, delta)`.
      relation: which data sets are neighbours.

    References:
      Feldman and Zrnic (2021), arXiv 2008.11193; Whitehouse, Ramdas, Rogers and Wu
      (2023), Fully adaptive composition in differential privacy, arXiv 2203.05481.
    """

    def __init__(
        self,
        budget: Budget | tuple[float, float],
        *,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        super().__init__(budget, relation=relation)
        self._limit, self._total = budget_rho(self.budget), 0.0

    @property
    def event(self) -> Event:
        """The event of the whole budget, to spend in a ledger beforehand."""
        return dp_accounting.ZCDpEvent(self._limit)

    def _fits(self, event: Event, slack: float) -> bool:
        return (self._total + self._cost(event)) * slack <= self._limit

    def _epsilon_with(self, event: Event) -> float:
        total = self._total + self._cost(event)
        if total == math.inf:
            return math.inf
        whole = dp_accounting.ZCDpEvent(total)
        delta = self.budget.delta
        return float(accountants.event_epsilon(whole, delta, accountant="rdp"))

    def _add(self, event: Event) -> None:
        self._total += self._cost(event)

    def _cost(self, event: Event) -> float:
        return views.zero_concentrated_dp(event, relation=self.relation)


class GaussianFilter(PrivacyFilter):
    """A filter of plain Gaussian releases alone, at their exact epsilon.

    Releases with noise multipliers s_1, s_2, ... are admitted while the sum of 1 / s^2
    is at most that of the one Gaussian release that has the budget.

    Guarantee: as `PrivacyFilter`; what is admitted has the trade-off curve of `.event`.

    Args:
      budget: `Budget(epsilon, delta)`.
      relation: which data sets are neighbours.

    References:
      Smith and Thakurta (2022), Fully adaptive composition for Gaussian differential
      privacy, arXiv 2210.17520; Koskela, Tobaben and Honkela (2023), Individual privacy
      accounting with Gaussian differential privacy, arXiv 2209.15596.
    """

    def __init__(
        self,
        budget: Budget | tuple[float, float],
        *,
        relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    ) -> None:
        super().__init__(budget, relation=relation)
        epsilon, delta = self.budget
        self._noise = calibration.calibrate_event(
            dp_accounting.GaussianDpEvent,
            target_epsilon=epsilon,
            delta=delta,
            relation=relation,
        )
        self._total = 0.0

    @property
    def event(self) -> Event:
        """The event of the whole budget, to spend in a ledger beforehand."""
        return dp_accounting.GaussianDpEvent(self._noise)

    def _fits(self, event: Event, slack: float) -> bool:
        total = (self._total + self._cost(event)) * slack
        return total <= self._noise**-2

    def _epsilon_with(self, event: Event) -> float:
        total = self._total + self._cost(event)
        if total in (0.0, math.inf):
            return total
        whole = dp_accounting.GaussianDpEvent(total**-0.5)
        delta, relation = self.budget.delta, self.relation
        return float(accountants.event_epsilon(whole, delta, relation=relation))

    def _add(self, event: Event) -> None:
        self._total += self._cost(event)

    def _cost(self, event: Event) -> float:
        total = 0.0
        for part, count in events.take_apart(event):
            if part == events.NON_PRIVATE:
                return math.inf
            if not isinstance(part, dp_accounting.GaussianDpEvent):
                _check.fail("plain Gaussian releases", "event", event, AccountingError)
            total += count / part.noise_multiplier**2
        return total


def budget_rho(budget: Budget) -> float:
    """Return the rho for which rho-zCDP has the budget's epsilon at its delta."""
    noise = calibration.calibrate_event(
        lambda noise: dp_accounting.ZCDpEvent(0.5 / noise**2),
        target_epsilon=budget.epsilon,
        delta=budget.delta,
        accountant="rdp",
    )
    return 0.5 / noise**2
