"""The delta of one Poisson-sampled Gaussian release, in closed form.

At the output x where the loss is epsilon, P(L > epsilon) - e^epsilon Q(L > epsilon) is,
with phi the standard normal density, u = x / s, and R Mills' ratio of its tail,

    remove       q phi(u - 1/s) [R(u - 1/s) - R(u)]
    add          q e^epsilon phi(u - 1/s) [R(-u) - R(1/s - u)], x where it is -epsilon
    replace one  q phi(u - 1/s) [R(u - 1/s) - R(u)]
                 + q e^epsilon phi(u + 1/s) [R(u) - R(u + 1/s)]

of which every bracket is positive: nothing cancels, however small q is.
"""

import math

import numpy as np
from scipy import optimize, special

from dpjax.accounting.laws.privacy_loss import SampledGaussian

ROUNDING = 1e-12
"""Error of a log delta, generously."""

_CLOSE = 0.05
_POINTS, _WEIGHTS = special.roots_legendre(12)


def log_delta(pair: SampledGaussian, epsilon: float, *, added: bool) -> float:
    """Return log delta at `epsilon`, which is at least 0; -inf where delta is 0."""
    step, log_q = 1 / pair.noise_multiplier, math.log(pair.sampling_prob)
    if added and not pair.replace_one:
        u = float(pair.output(np.array(-epsilon))) * step
        return log_q + epsilon + _log_gap(-u, step, step - u)
    u = float(pair.output(np.array(epsilon))) * step
    value = log_q + _log_gap(u - step, step, u - step)
    if pair.replace_one:
        value = np.logaddexp(value, log_q + epsilon + _log_gap(u, step, u + step))
    return float(value)


def epsilon(pair: SampledGaussian, delta: float) -> tuple[float, float]:
    """Return the least epsilon >= 0 with at most that delta, and its error."""
    directions = (False,) if pair.symmetric else (False, True)
    value = max(_solve(pair, math.log(delta), added) for added in directions)
    shifted = math.log(delta) - ROUNDING
    upper = max(_solve(pair, shifted, added) for added in directions)
    return value, upper - value + 4e-16 * value


def _log_gap(low: float, step: float, peak: float) -> float:
    """Return log of phi(peak) [R(low) - R(low + step)]; -inf where x is -inf.

    As phi(v) R(v) is the normal's tail beyond v, logarithms of tails serve where R
    leaves the range of floats.
    """
    if not math.isfinite(low):
        return -math.inf
    log_phi = -0.5 * (peak**2 + math.log(2 * math.pi))
    if step < _CLOSE and low > -1:
        # As R' = u R - 1, the bracket is an integral, in which nothing cancels.
        u = low + 0.5 * step * (1 + _POINTS)
        mills = math.sqrt(math.pi / 2) * special.erfcx(u / math.sqrt(2))
        mean = 0.5 * float(_WEIGHTS @ (1 - u * mills))
        return math.log(step) + math.log(mean) + log_phi if mean > 0 else -math.inf
    log_near, log_far = _log_mills(low), _log_mills(low + step)
    shrunk = -math.expm1(log_far - log_near)
    if not shrunk > 0:
        return -math.inf
    return log_near + math.log(shrunk) + log_phi


def _log_mills(u: float) -> float:
    """Return the logarithm of (1 - Phi(u)) / phi(u)."""
    if u > 0:
        scaled = float(special.erfcx(u / math.sqrt(2)))
        return 0.5 * math.log(math.pi / 2) + math.log(scaled)
    return float(special.log_ndtr(-u)) + 0.5 * (u**2 + math.log(2 * math.pi))


def _solve(pair: SampledGaussian, wanted: float, added: bool) -> float:
    """Return the epsilon in one direction."""

    def gap(value: float) -> float:
        excess = log_delta(pair, value, added=added) - wanted
        return max(excess, -1e300)

    high = 1.0
    if gap(0.0) <= 0:
        return 0.0
    while gap(high) > 0:
        high *= 2
    return float(optimize.brentq(gap, 0.0, high, xtol=1e-300, rtol=1e-15, maxiter=500))
