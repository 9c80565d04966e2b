"""Events, and the reference epsilons that tests/data/accounting_cases.json holds."""

import json
import pathlib

import dp_accounting

_PATH = pathlib.Path(__file__).parent / "data" / "accounting_cases.json"

CASES = json.loads(_PATH.read_text())["cases"]
IDS = [case["id"] for case in CASES]


def sampled(noise_multiplier, sampling_prob, num_steps=1):
    step = dp_accounting.PoissonSampledDpEvent(
        sampling_prob, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    return dp_accounting.SelfComposedDpEvent(step, num_steps)


def event(case):
    segments = [sampled(*segment) for segment in case["segments"]]
    return dp_accounting.ComposedDpEvent(segments)
