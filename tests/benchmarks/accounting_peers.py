"""The accountants of this interpreter, by name; a script that answers for one of them.

Each offers some of these tasks, with segments (noise multiplier, sampling probability,
steps):

    epsilon(segments, delta, fineness=0)            at a grid 10^fineness times as fine
    noise(target, delta, sampling_prob, steps)      to nine digits where it can
    curve(noise, sampling_prob, steps, delta)       epsilon after each number of steps
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import accounting_worker
import dp_accounting
import numpy as np
from dp_accounting import pld, rdp

from dpjax import accounting

try:
    import prv_accountant
    from prv_accountant import dpsgd
except ImportError:  # it is no dependency: pip install prv-accountant
    prv_accountant = None

Segments = Sequence[tuple[float, float, int]]

_DIGITS = 1e-9
_PRV_ERROR = 0.01


def event(segments: Segments) -> dp_accounting.DpEvent:
    """Return the event of Poisson-sampled Gaussian steps."""
    steps = [
        dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(s)),
            count,
        )
        for s, rate, count in segments
    ]
    return dp_accounting.ComposedDpEvent(steps)


def ours(name: str) -> accounting_worker.Tasks:
    """Return the tasks of one of our accountants."""

    def epsilon(segments: Segments, delta: float) -> float:
        return float(accounting.event_epsilon(event(segments), delta, accountant=name))

    def method(segments: Segments, delta: float) -> str:
        return accounting.event_epsilon(event(segments), delta, accountant=name).method

    def noise(target: float, delta: float, sampling_prob: float, steps: int) -> float:
        return accounting.calibrate_noise_multiplier(
            target_epsilon=target,
            delta=delta,
            sampling_prob=sampling_prob,
            num_steps=steps,
            accountant=name,
        )

    def curve(
        noise: float, sampling_prob: float, steps: list[int], delta: float
    ) -> list[float]:
        return accounting.epsilon_curve(
            noise_multiplier=noise,
            sampling_prob=sampling_prob,
            steps=steps,
            delta=delta,
            accountant=name,
        ).tolist()

    return {"epsilon": epsilon, "method": method, "noise": noise, "curve": curve}


def library(fresh: Callable[..., Any]) -> accounting_worker.Tasks:
    """Return the tasks of an accountant of dp_accounting."""

    def epsilon(segments: Segments, delta: float, fineness: int = 0) -> float:
        options = {"value_discretization_interval": 1e-4 * 0.1**fineness}
        found = fresh(**options) if fineness else fresh()
        return float(found.compose(event(segments)).get_epsilon(delta))

    def noise(target: float, delta: float, sampling_prob: float, steps: int) -> float:
        return dp_accounting.calibrate_dp_mechanism(
            fresh,
            lambda noise: event([(noise, sampling_prob, steps)]),
            target,
            delta,
            dp_accounting.LowerEndpointAndGuess(0.2, 1.0),
            tol=_DIGITS,
        )

    def curve(
        noise: float, sampling_prob: float, steps: list[int], delta: float
    ) -> list[float]:
        found, before, values = fresh(), 0, []
        for number in steps:
            found.compose(event([(noise, sampling_prob, number - before)]))
            values.append(float(found.get_epsilon(delta)))
            before = number
        return values

    return {"epsilon": epsilon, "noise": noise, "curve": curve}


def library_rdp() -> accounting_worker.Tasks:
    """Return those of its Renyi accountant, with the quickest curve that it allows."""

    def curve(
        noise: float, sampling_prob: float, steps: list[int], delta: float
    ) -> list[float]:
        found = rdp.RdpAccountant().compose(event([(noise, sampling_prob, 1)]))
        orders, step = found._orders, np.array(found.rdp)
        return [float(rdp.compute_epsilon(orders, n * step, delta)[0]) for n in steps]

    return {**library(rdp.RdpAccountant), "curve": curve}


def prv() -> accounting_worker.Tasks:
    """Return the tasks of prv-accountant: its estimates, not the bounds around them."""

    def epsilon(segments: Segments, delta: float, fineness: int = 0) -> float:
        counts = [count for *_, count in segments]
        accountant = _prv(segments, delta, _PRV_ERROR * 0.1**fineness)
        return float(accountant.compute_epsilon(delta, counts)[1])

    def noise(target: float, delta: float, sampling_prob: float, steps: int) -> float:
        return float(
            dpsgd.find_noise_multiplier(
                sampling_prob, steps, target, delta, eps_error=_PRV_ERROR
            )
        )

    def curve(
        noise: float, sampling_prob: float, steps: list[int], delta: float
    ) -> list[float]:
        accountant = _prv([(noise, sampling_prob, max(steps))], delta, _PRV_ERROR)
        return [float(accountant.compute_epsilon(delta, [n])[1]) for n in steps]

    return {"epsilon": epsilon, "noise": noise, "curve": curve}


def _prv(segments: Segments, delta: float, error: float) -> Any:
    laws = [
        prv_accountant.PoissonSubsampledGaussianMechanism(
            sampling_probability=rate, noise_multiplier=noise
        )
        for noise, rate, _ in segments
    ]
    return prv_accountant.PRVAccountant(
        laws,
        eps_error=error,
        delta_error=delta / 1000,
        max_self_compositions=[count for *_, count in segments],
    )


TASKS: dict[str, Callable[[], accounting_worker.Tasks]] = {
    "exact": functools.partial(ours, "exact"),
    "pld": functools.partial(ours, "pld"),
    "rdp": functools.partial(ours, "rdp"),
    "library_pld": functools.partial(library, pld.PLDAccountant),
    "library_rdp": library_rdp,
    "prv": prv,
}


def missing(name: str) -> str | None:
    """Return why one cannot run, or None."""
    if name == "prv" and prv_accountant is None:
        return "prv-accountant is not installed (pip install prv-accountant)"
    return None


def forget() -> None:
    """Empty our own caches: every round pays for all of it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("dpjax.accounting"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


if __name__ == "__main__":
    accounting_worker.serve(TASKS[sys.argv[1]](), forget)
