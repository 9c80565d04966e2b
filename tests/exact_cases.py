"""Gaussian runs with their true epsilons, from tests/data/exact_cases.json."""

import json
import pathlib

import dp_accounting
from accounting_cases import sampled

_PATH = pathlib.Path(__file__).parent / "data" / "exact_cases.json"

CASES = json.loads(_PATH.read_text())["cases"]
IDS = [case["id"] for case in CASES]
FEW_SEGMENTS = [case for case in CASES if not isinstance(case["segments"], str)]
FEW_IDS = [case["id"] for case in FEW_SEGMENTS]


def segments(case):
    if isinstance(case["segments"], str):
        return [(1 + i / 1000, 0.01, 1) for i in range(1000)]
    return case["segments"]


def event(case):
    return dp_accounting.ComposedDpEvent([sampled(*run) for run in segments(case)])
