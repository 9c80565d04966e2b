"""Opacus's Renyi accountant, run by its own interpreter: see accounting_peers.py."""

from collections.abc import Sequence

import accounting_worker
from opacus import accountants
from opacus.accountants import utils

_TOLERANCE = 1e-9


def epsilon(segments: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return epsilon after some segments."""
    accountant = accountants.RDPAccountant()
    accountant.history = [tuple(segment) for segment in segments]
    return accountant.get_epsilon(delta)


def noise(target: float, delta: float, sampling_prob: float, steps: int) -> float:
    """Return the noise multiplier for a target epsilon."""
    return utils.get_noise_multiplier(
        target_epsilon=target,
        target_delta=delta,
        sample_rate=sampling_prob,
        steps=steps,
        epsilon_tolerance=_TOLERANCE * target,
    )


def curve(
    noise: float, sampling_prob: float, steps: list[int], delta: float
) -> list[float]:
    """Return epsilon after each number of steps."""
    return [epsilon([(noise, sampling_prob, number)], delta) for number in steps]


if __name__ == "__main__":
    accounting_worker.serve({"epsilon": epsilon, "noise": noise, "curve": curve})
