"""Group privacy: what all k examples of one person cost together.

A person whose k examples are added or removed at once moves a plain Gaussian release by
up to k clip norms. Under Poisson sampling the number B of them in a batch is binomial,
and the worst case is a mixture of Gaussians: N(0, s^2) against N(B, s^2).
"""

import math
from collections.abc import Callable

import dp_accounting
from scipy import optimize, stats

from dpjax import _check
from dpjax.accounting import accountants, events
from dpjax.accounting.epsilon import AccountingError, Epsilon

_LEAST_SHARE = 2.0**-60
_LOG_LEAST_DELTA = math.log(1e-250)
_STRIDE, _PRECISION = 1.3, 1e-6


def group_event(
    event: dp_accounting.DpEvent, num_examples: int
) -> dp_accounting.DpEvent:
    """Return what `event` releases about a person with several examples.

    | released                          | about k examples at once                     |
    | --------------------------------- | -------------------------------------------- |
    | Gaussian, noise multiplier s      | Gaussian, s / k                              |
    | Poisson-sampled Gaussian          | a mixture of Gaussians, shifts Binomial(k, q)|
    | Laplace, noise multiplier b       | Laplace, b / k                               |
    | nothing, or without noise         | the same                                     |

    Args:
      event: compositions of the above, whose account is for one example.
      num_examples: k, the most examples that a person has, at least 1.

    Returns:
      An event for `event_epsilon`, under add-or-remove of one person. Where examples
      are sampled, "rdp" may give more than `vadhan_epsilon` does.

    Raises:
      ValueError: `num_examples` is out of range.
      AccountingError: the event has another part.

    Guarantee: neighbours differ by all examples of one person, at most `num_examples`
    of them, each of them sampled independently of the others.

    Example:
      >>> step = dp_accounting.PoissonSampledDpEvent(
      ...     0.0064, dp_accounting.GaussianDpEvent(1.0)
      ... )
      >>> event = dp_accounting.SelfComposedDpEvent(step, 782)
      >>> epsilon = accountants.event_epsilon(group_event(event, 2), 1e-6)
      >>> round(epsilon, 3)
      2.532

    References:
      Ganesh (2024), Tight group-level DP guarantees for DP-SGD with sampling via
      mixture of Gaussians mechanisms.
    """
    size = _check.integer("num_examples", num_examples, minimum=1)
    composed = [
        dp_accounting.SelfComposedDpEvent(_grouped(part, size), count)
        for part, count in events.take_apart(event)
    ]
    return dp_accounting.ComposedDpEvent(composed)


def vadhan_epsilon(
    event: dp_accounting.DpEvent,
    delta: float,
    num_examples: int,
    *,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> Epsilon:
    """Return the epsilon of a person with several examples, for any mechanism at all.

    One example's (e, d) gives k examples (k e, d (e^(k e) - 1) / (e^e - 1)); the best
    e is taken. It needs a d far below delta, and is above `group_event`'s epsilon.

    Args:
      event: as in `event_epsilon`.
      delta: in (0, 1), of the person.
      num_examples: k, the most examples that a person has, at least 1.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours, by one example.

    Returns:
      Epsilon in nats; infinite where no delta above 1e-250 is small enough.

    Raises:
      ValueError, AccountingError: as `event_epsilon`.

    Guarantee: neighbours differ by at most `num_examples` examples.

    References:
      Vadhan (2017), The complexity of differential privacy, lemma 2.2.
    """
    delta = _check.open_unit("delta", delta)
    size = _check.integer("num_examples", num_examples, minimum=1)

    def spent(log_delta: float) -> Epsilon:
        return accountants.event_epsilon(
            event, math.exp(log_delta), accountant=accountant, relation=relation
        )

    def excess(log_delta: float) -> float:
        epsilon = float(spent(log_delta))
        if not math.isfinite(epsilon):
            return math.inf
        return log_delta + _log_growth(epsilon, size) - math.log(delta)

    log_delta = _first_root(excess, math.log(delta))
    if log_delta is None:
        return Epsilon(math.inf, method=accountant)
    found = spent(log_delta)
    return Epsilon(size * found, error=size * found.error, method=found.method)


def group_epsilon(
    event: dp_accounting.DpEvent,
    delta: float,
    num_examples: int,
    *,
    accountant: str = "exact",
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> Epsilon:
    """Return the epsilon of a person with several examples, by what is known best.

    That is `group_event`'s, for events that it knows and neighbours that differ by
    presence, and `vadhan_epsilon`'s otherwise.

    Args:
      event: as in `event_epsilon`, of one example.
      delta: in (0, 1), of the person.
      num_examples: k, the most examples that a person has, at least 1.
      accountant: "exact", "pld" or "rdp".
      relation: which data sets are neighbours, by one example.

    Returns:
      Epsilon in nats; infinite where there is no bound.

    Raises:
      ValueError, AccountingError: as `event_epsilon`.

    Guarantee: that of the function whose number it is.

    Example:
      >>> step = dp_accounting.GaussianDpEvent(4.0)
      >>> round(group_epsilon(step, 1e-6, 2), 3)
      2.254
    """
    delta = _check.open_unit("delta", delta)
    if relation != events.Relation.REPLACE_ONE:
        try:
            together = group_event(event, num_examples)
        except AccountingError:
            pass
        else:
            return accountants.event_epsilon(
                together, delta, accountant=accountant, relation=relation
            )
    return vadhan_epsilon(
        event, delta, num_examples, accountant=accountant, relation=relation
    )


def group_statement(
    event: dp_accounting.DpEvent,
    delta: float,
    num_examples: int,
    *,
    relation: events.Relation = events.Relation.ADD_OR_REMOVE_ONE,
) -> str:
    """Return one line for a report: what a person with several examples is promised.

    The arguments, and what may be raised, are those of `group_epsilon`.

    Example:
      >>> print(group_statement(dp_accounting.GaussianDpEvent(4.0), 1e-6, 2))
      For a person with at most 2 examples: epsilon = 2.255 at delta = 1e-06.
    """
    spent = group_epsilon(event, delta, num_examples, relation=relation)
    many = f"{num_examples} example" + "s" * (num_examples != 1)
    if not math.isfinite(spent):
        return f"For a person with at most {many}: nothing is promised."
    # Rounded up: the line promises no more than what holds.
    digits = max(0, 3 - math.floor(math.log10(spent))) if spent > 0 else 0
    rounded = math.ceil(spent * 10**digits) / 10**digits
    return (
        f"For a person with at most {many}: epsilon = {rounded:.10g} at delta = "
        f"{delta:g}."
    )


def _grouped(part: events.Event, size: int) -> events.Event:
    if part == events.NON_PRIVATE:
        return part
    if isinstance(part, dp_accounting.GaussianDpEvent):
        return dp_accounting.GaussianDpEvent(part.noise_multiplier / size)
    if isinstance(part, dp_accounting.LaplaceDpEvent):
        return dp_accounting.LaplaceDpEvent(part.noise_multiplier / size)
    if not (
        isinstance(part, dp_accounting.PoissonSampledDpEvent)
        and isinstance(part.event, dp_accounting.GaussianDpEvent)
    ):
        what = "Gaussian or Laplace releases, or Poisson-sampled Gaussian ones"
        _check.fail(what, "event", part, AccountingError)
    if size == 1:
        return part
    shares = stats.binom.pmf(range(size + 1), size, part.sampling_probability)
    # The rarest large batches, and rounding, count as the whole group.
    kept = [k for k in range(size) if shares[k] > _LEAST_SHARE]
    masses = [float(shares[k]) for k in kept]
    return dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
        part.event.noise_multiplier,
        [*(float(k) for k in kept), float(size)],
        [*masses, max(1 - math.fsum(masses), float(shares[size]))],
    )


def _log_growth(epsilon: float, size: int) -> float:
    """Return log((e^(k e) - 1) / (e^e - 1))."""
    if epsilon == 0:
        return math.log(size)
    return (size - 1) * epsilon + math.log(
        math.expm1(-size * epsilon) / math.expm1(-epsilon)
    )


def _first_root(excess: Callable[[float], float], start: float) -> float | None:
    """Return the largest argument found, from `start` down, that has no excess."""
    if excess(start) <= 0:
        return start
    before = start
    while before > _LOG_LEAST_DELTA:
        here = _STRIDE * before - _PRECISION
        if excess(here) <= 0:
            root = float(optimize.brentq(excess, here, before, xtol=_PRECISION))
            while excess(root) > 0:
                root -= _PRECISION
            return root
        before = here
    return None
