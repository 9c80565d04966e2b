"""Individual accounting: each example has a budget of its own.

What a step costs an example depends on the norm that the example adds to the sum. Most
add less than the clip norm, and could stay for longer than the worst case allows.
"""

from typing import Any

import dp_accounting
import numpy as np

from dpjax import _check
from dpjax.accounting import calibration
from dpjax.accounting.events import Event
from dpjax.accounting.ledgers import budget as budgets
from dpjax.accounting.ledgers.budget import Budget

_ROUNDING = 1 + 2.0**-18
"""By how much a norm that was computed in float32 may be too small, squared."""


class IndividualFilter:
    """Which examples may enter a Gaussian step, by what each has spent so far.

    An example whose clipped gradient has norm n adds n^2 / s^2 to its own sum at a
    step with noise of standard deviation s. It enters while its sum keeps to that of
    the one Gaussian release that has the budget; what would pass it does not enter that
    step (and is tried again at later ones). So the number of steps is not limited by
    the clip norm, but by how much each example really moved the sum.
    `mechanism.DPIndividualSGD` does the like in a run, and clips what would pass to
    what is left.

    PRIVATE: the norms that go in, the masks that come out, what examples have spent,
    and how many are left depend on single examples, raw. They may steer the sum that is
    noised, and must not be released, logged, or used to decide when to stop: what is
    released is covered, and nothing else.

    Guarantee: under add-or-remove-one, all noisy sums of a run in which every step sums
    the masked examples alone cost what one Gaussian release does, `.event`. The noise
    of a step, the function that is differentiated, and when to stop may be chosen by
    what was released. Whether an example enters depends on itself and on what was
    released, not on other examples: so with it or without it, the sums differ by it
    alone, and its sum keeps to the total on every course of the run (Koskela et al.
    2023). Nothing is claimed of sampling: batches must be chosen without a look at the
    data, and count as known.

    Args:
      num_examples: n.
      budget: `Budget(epsilon, delta)` that every example has.
      spent: (n,) sums of each, from `.spent` of a run that is resumed.

    Raises:
      ValueError: a number out of range, or of the wrong shape.
      AccountingError: no Gaussian release has the budget: epsilon is above 5e5, say.

    References:
      Feldman and Zrnic (2021), Individual privacy accounting via a Renyi filter, arXiv
      2008.11193; Koskela, Tobaben and Honkela (2023), Individual privacy accounting
      with Gaussian differential privacy, arXiv 2209.15596, which is tighter.

    Example:
      >>> individual = IndividualFilter(3, Budget(epsilon=1.0, delta=1e-5))
      >>> norms = np.array([1.0, 0.5, 0.0])
      >>> steps = [individual.enter(norms, noise_stddev=10.0) for _ in range(40)]
      >>> np.sum(steps, axis=0)
      array([ 7, 28, 40])
    """

    def __init__(
        self,
        num_examples: int,
        budget: Budget | tuple[float, float],
        *,
        spent: Any = None,
    ) -> None:
        count = _check.integer("num_examples", num_examples, minimum=1)
        checked = budgets.checked(budget)
        if checked is None:
            _check.fail("a budget (epsilon, delta)", "budget", None, TypeError)
        noise = calibration.calibrate_event(
            dp_accounting.GaussianDpEvent,
            target_epsilon=checked.epsilon,
            delta=checked.delta,
        )
        self._budget, self._noise, self._limit = checked, noise, noise**-2
        start = np.zeros(count) if spent is None else np.array(spent, np.float64)
        if start.shape != (count,):
            _check.fail(f"shape ({count},)", "spent.shape", start.shape)
        if not np.all((start >= 0) & (start <= self._limit)):
            _check.fail(f"numbers in [0, {self._limit}]", "spent", "others")
        self._spent = start

    @property
    def budget(self) -> Budget:
        """What is promised to every example."""
        return self._budget

    @property
    def event(self) -> Event:
        """The event of the whole run, however long, to spend in a ledger."""
        return dp_accounting.GaussianDpEvent(self._noise)

    @property
    def spent(self) -> np.ndarray:
        """The sum of each example, of (norm / noise)^2 of its steps, (n,). Private."""
        return self._spent.copy()

    def enter(
        self,
        norms: Any,
        noise_stddev: float,
        *,
        indices: Any = None,
        mask: Any = None,
    ) -> np.ndarray:
        """Return which examples enter a step, and charge them for it.

        Args:
          norms: (batch,) L2 norms of what each would add to the sum, clipped: for a
            gradient of norm g and the clip norm C, min(g, C). Larger ones are safe:
            take `ClippedGrads.per_example.grad_norm_bound` for g.
          noise_stddev: of the noise in each entry of the sum, > 0: noise multiplier
            times clip norm. Public.
          indices: (batch,) which example each is, all different; None: all n in order.
          mask: (batch,) booleans; False marks padding, whose norms do not matter.

        Returns:
          Booleans (batch,): the mask for `clipped_grad`. A norm that is NaN or Inf does
          not enter.

        Raises:
          ValueError: shapes that differ, a negative norm, an index out of range, or
            one that comes twice.
        """
        stddev = _check.positive("noise_stddev", noise_stddev)
        norms = np.asarray(norms, np.float64)
        places = self._places(norms, indices)
        valid = np.isfinite(norms)
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != norms.shape:
                _check.fail(f"booleans {norms.shape}", "mask", (mask.dtype, mask.shape))
            valid &= mask
        self._check_valid(norms, places, valid)
        costs = np.square(np.where(valid, norms, 0) / stddev) * _ROUNDING
        fits = valid & (self._spent[np.where(valid, places, 0)] + costs <= self._limit)
        self._spent[places[fits]] += costs[fits]
        return fits

    def _places(self, norms: np.ndarray, indices: Any) -> np.ndarray:
        places = np.arange(self._spent.size) if indices is None else np.asarray(indices)
        if norms.ndim != 1 or places.shape != norms.shape:
            _check.fail(f"norms of shape {places.shape}", "norms.shape", norms.shape)
        if not np.issubdtype(places.dtype, np.integer):
            _check.fail("integers", "indices.dtype", str(places.dtype), TypeError)
        return places

    def _check_valid(
        self, norms: np.ndarray, places: np.ndarray, valid: np.ndarray
    ) -> None:
        """Check what counts; messages name no value, since these are private."""
        if np.any(norms[valid] < 0):
            _check.fail("norms >= 0", "norms", "a negative one")
        chosen = places[valid]
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < self._spent.size:
            _check.fail(f"indices below {self._spent.size}", "indices", "others")
        if np.unique(chosen).size < chosen.size:
            _check.fail("each example once a step", "indices", "one that comes twice")
