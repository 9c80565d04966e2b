"""The words of a run's page: what each public constant is, what the epsilon promises.

Figures that promise something (epsilon, delta, what follows from them) are rounded up.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dpjax.report import page
from dpjax.report.folder import as_number

_CONSTANTS = {
    "delta": (
        "Delta",
        "The probability that the promise of epsilon leaves out. Keep it well "
        "below one over the number of examples.",
    ),
    "mechanism": ("Mechanism", "What turns private data into an update."),
    "neighboring_relation": (
        "Neighbouring relation",
        "The two data sets that must look alike: this is what the promise protects.",
    ),
    "sampler": ("Sampler", "How examples enter a step."),
    "sampler_statement": (
        "Sampling",
        "What the accounting takes for granted about it.",
    ),
    "sampling_prob": (
        "Sampling probability",
        "The chance that one example takes part in one step. The smaller, the more "
        "one example hides behind the others.",
    ),
    "l2_norm_clip": (
        "Clip norm",
        "The gradient of each example is scaled down to this L2 norm where it is "
        "longer, so that no example counts for more.",
    ),
    "sensitivity": (
        "Sensitivity",
        "The most that one example can move the sum of clipped gradients, in L2 norm.",
    ),
    "noise_multiplier": (
        "Noise multiplier",
        "Standard deviation of the noise in units of the sensitivity. Together with "
        "sampling and steps it decides epsilon.",
    ),
    "noise_std": (
        "Noise added to the sum",
        "Standard deviation of the Gaussian noise on each coordinate of the sum: "
        "noise multiplier times sensitivity. Of correlated noise it is that of the "
        "draws which are mixed, and times the sensitivity of the strategy.",
    ),
    "noise_stages": (
        "Stages",
        "Noise multiplier and number of steps of each stage; what stands elsewhere is "
        "that of the first.",
    ),
    "full_steps": (
        "Budget of an example",
        "How many steps at the clip norm an example can pay for. It pays for what it "
        "adds, and adds no more than what it has left.",
    ),
    "noise": ("Noise", "What kind of noise is added to the sum."),
    "granularity": (
        "Granularity",
        "The step of the grid that is rounded to. Where there is none, it is the "
        "largest with which rounding adds 0.1 % to the sensitivity.",
    ),
    "rounding": (
        "Rounding",
        "What is rounded to the grid: the sum, or each example. It adds to the "
        "sensitivity, and is counted in it.",
    ),
    "strategy": (
        "Strategy",
        "How the noise of a step takes off some of that of the steps before.",
    ),
    "participation": (
        "Participation",
        "At which steps one example can take part: its contributions add up.",
    ),
    "strategy_sensitivity": (
        "Sensitivity of the strategy",
        "What all contributions of one example can move together, in clip norms.",
    ),
    "strategy_sensitivity_is_exact": (
        "Sensitivity is exact",
        "Whether an example can reach it; else it is an upper bound.",
    ),
    "amplified": (
        "Amplified",
        "Whether the accounting counts on which steps an example is in being secret.",
    ),
    "divisor": (
        "Divisor",
        "The noisy sum is divided by this constant, never by the size of the batch "
        "that was drawn, which is private.",
    ),
    "num_examples": ("Training examples", "Taken as public."),
    "expected_batch_size": (
        "Expected batch size",
        "How many examples a step uses on average.",
    ),
    "num_steps": ("Steps planned", "How many updates the noise was chosen for."),
    "chunk_size": (
        "Chunk size",
        "Examples held in memory at once; a larger draw is summed in further chunks. "
        "It changes memory and time, nothing else.",
    ),
    "event": ("Event", "What the accountants were given to compose."),
}

_METHODS = {
    "exact": ("exact", "The transform of the privacy loss, inverted: the true number."),
    "pld": ("PLD", "Privacy loss distributions on a grid: next to it."),
    "rdp": ("RDP", "Rényi divergences, converted: looser, simple to check."),
}


class Row(NamedTuple):
    """A line of a table: a name, a value, and what it means."""

    label: str
    value: str
    meaning: str = ""


class Bound(NamedTuple):
    """One accountant's epsilon: every one is an upper bound, the least one counts."""

    key: str
    method: str
    value: float
    meaning: str

    @property
    def text(self) -> str:
        """Return the number, rounded up."""
        return page.number_up(self.value)


def bounds(epsilon: Mapping[str, Any]) -> list[Bound]:
    """Return the accountants' epsilons in a fixed order, those known."""
    order = [*_METHODS, *sorted(set(epsilon) - set(_METHODS))]
    found = []
    for key in order:
        value = as_number(epsilon.get(key))
        if value is not None and not math.isnan(value):
            meaning = _METHODS.get(key, (key, ""))[1]
            found.append(Bound(key, method(key), value, meaning))
    return found


def method(key: str) -> str:
    """Return the name of an accountant."""
    return _METHODS.get(key, (key, ""))[0]


def name(key: str) -> str:
    """Return the name of a public constant."""
    return _CONSTANTS.get(key, (page.label(key), ""))[0]


def constants(config: Mapping[str, Any]) -> list[Row]:
    """Return every public constant of a run, the known ones first and explained."""
    values = {"delta": config.get("delta"), **config["mechanism"]}
    order = [*_CONSTANTS, *(key for key in values if key not in _CONSTANTS)]
    table = []
    for key in order:
        if values.get(key) is not None:
            meaning = _CONSTANTS.get(key, (key, ""))[1]
            table.append(Row(name(key), plain(values[key]), meaning))
    return table


def rows(table: Mapping[str, Any], prefix: str = "") -> list[Row]:
    """Flatten a free-form object to rows with dotted names."""
    flat = []
    for key, value in table.items():
        if isinstance(value, dict) and value:
            flat += rows(value, f"{prefix}{key}.")
        else:
            flat.append(Row(prefix + key, plain(value)))
    return flat


def plain(value: Any) -> str:
    """Write a setting so that nothing is rounded.

    >>> plain(4000), plain(1.1), plain(None), plain(["a", True])
    ('4,000', '1.1', 'none', '["a", true]')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)


def shared_budget(config: Mapping[str, Any]) -> str | None:
    """Say what is promised of all runs of one budget, where the run has such a one."""
    shared = config["training"].get("privacy_filter")
    if not isinstance(shared, dict):
        return None
    epsilon, delta = (as_number(shared.get(key)) for key in ("epsilon", "delta"))
    if epsilon is None or delta is None:
        return None
    return (
        "This run shares a budget with others, each of which may have been chosen by "
        "what those before it released. For all of them together, epsilon is at most "
        f"{page.number_up(epsilon)} at delta {page.number_up(delta)}."
    )


def likelihood_factor(epsilon: float) -> str:
    """Return e^epsilon, rounded up."""
    return page.number_up(math.exp(epsilon)) if epsilon < 700 else "∞"


def guessing_bound(epsilon: float, delta: float) -> float:
    """Return how often a guess between two neighbouring data sets is right, at most.

    Both are equally likely beforehand. The total variation distance of an
    (epsilon, delta) indistinguishable pair is at most
    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1), and the best guess is right with
    probability (1 + distance) / 2 = (e^epsilon + delta) / (e^epsilon + 1).

    >>> guessing_bound(0.0, 0.0), guessing_bound(1000.0, 0.0)
    (0.5, 1.0)

    References:
      Kairouz, Oh, Viswanath, "The Composition Theorem for Differential Privacy",
      ICML 2015, section 2: the region of possible error rates.
    """
    shrink = math.exp(-epsilon)
    return min(1.0, (1 + delta * shrink) / (1 + shrink))
