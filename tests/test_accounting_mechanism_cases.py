"""Reference numbers for other mechanisms, neighbours and questions than epsilon.

Each case of tests/data/mechanism_cases.json names two numbers between which the answer
must be: the truth twice, where it is known, else a lower bound and what a looser
accountant says.
"""

import json
import math
import pathlib

import dp_accounting
import pytest
from accounting_cases import sampled
from dp_accounting import dp_event

from dpjax import accounting
from dpjax.accounting.events import Relation

_PATH = pathlib.Path(__file__).parent / "data" / "mechanism_cases.json"
CASES = json.loads(_PATH.read_text())["cases"]

GAUSSIAN, LAPLACE = dp_accounting.GaussianDpEvent, dp_accounting.LaplaceDpEvent
ZERO, REPLACE = Relation.REPLACE_SPECIAL, Relation.REPLACE_ONE


def run(case, count="steps"):
    return sampled(case["noise_multiplier"], case["sampling_prob"], case[count])


def repeated(event, case):
    return dp_accounting.SelfComposedDpEvent(event, case["steps"])


def degenerate(case):
    expected = float(case["expected_epsilon"])
    yield accounting.event_epsilon(run(case), case["delta"]), expected, expected


def laplace(case):
    noises, steps = case["noise_multiplier"], case["steps"]
    if isinstance(noises, list):
        parts = zip(noises, steps, strict=True)
        truth = sum(n / noise for noise, n in zip(noises, steps, strict=True))
        low, high = truth * (1 - 1e-12), truth * (1 + 1e-5)
    else:
        parts = [(noises, steps)]
        low, high = case["eps_pld_optimistic"], case["eps_pld_pessimistic"] * (1 + 1e-9)
    event = dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(LAPLACE(noise), n) for noise, n in parts]
    )
    yield accounting.event_epsilon(event, case["delta"]), low, high


def sampled_laplace(case):
    rate, noise = case["sampling_prob"], case["noise_multiplier"]
    event = repeated(
        dp_accounting.PoissonSampledDpEvent(rate, LAPLACE(noise)),
        case,
    )
    truth = case["closed_form"]
    yield accounting.event_epsilon(event, case["delta"]), truth, truth * (1 + 1e-5)


def replace(case):
    answer = accounting.event_epsilon(run(case), case["delta"], relation=REPLACE)
    # What is above it is on a grid of 1e-4 with some 1e-5 of excess.
    pessimistic = case["eps_pld_pessimistic"]
    yield answer, pessimistic * (1 - 1e-5), pessimistic


def fixed_size(case):
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        case["N"], case["batch"], GAUSSIAN(case["noise_multiplier"])
    )
    answer = accounting.event_epsilon(
        repeated(event, case), case["delta"], relation=REPLACE
    )
    low, high = "eps_lower_bound_explicit_pair", "eps_rdp_improved_sigma_halved"
    yield answer, case[low], case[high]


def tree(case):
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(
        case["noise_multiplier"], case["steps"]
    )
    truth = case["eps_exact"]
    yield accounting.event_epsilon(event, case["delta"], relation=ZERO), truth, truth
    renyi = accounting.event_epsilon(
        event, case["delta"], relation=ZERO, accountant="rdp"
    )
    looser = case["eps_rdp_improved"]
    yield renyi, looser * (1 - 1e-3), looser


def zcdp(case):
    event = dp_event.ZCDpEvent(case["rho"])
    answer = accounting.event_epsilon(event, case["delta"], relation=ZERO)
    yield answer, case["eps_rdp_improved"] * (1 - 1e-4), case["eps_rdp_improved"]
    gaussian = GAUSSIAN(1 / math.sqrt(2 * case["rho"]))
    truth = case["eps_exact"]
    yield accounting.event_epsilon(gaussian, case["delta"]), truth, truth


def banded(case):
    answer = accounting.event_epsilon(run(case, "rounds"), case["delta"])
    yield answer, case["eps_exact"], case["eps_exact"]


def truncated(case):
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=case["N"],
        sampling_probability=case["sampling_prob"],
        truncated_batch_size=case["truncated_batch"],
        noise_multiplier=case["noise_multiplier"],
    )
    answer = accounting.event_epsilon(
        repeated(event, case), case["delta"], relation=ZERO
    )
    other = case["eps_pld_pessimistic"]
    yield answer, other * (1 - 5e-3), other * (1 + 5e-5)


def group(case):
    event = accounting.group_event(run(case), 2)
    other = case["eps_pld_pessimistic"]
    answer = accounting.event_epsilon(event, case["delta"])
    yield answer, other * (1 - 1e-4), other * (1 + 1e-4)


def order_of_batches(case):
    delta, noise = case["delta"], case["noise_multiplier"]
    fixed = accounting.event_epsilon(GAUSSIAN(noise), delta)
    truth = case["eps_deterministic_exact"]
    yield fixed, truth, truth
    # Shuffled batches are accounted for as if their order were known.
    yield fixed, case["eps_shuffle_lower_bound"], math.inf
    poisson = case["eps_poisson_exact"]
    yield accounting.event_epsilon(run(case), delta), poisson, poisson


def delta(case):
    epsilon, noise = case["epsilon"], case["noise_multiplier"]
    fixed = accounting.event_delta(GAUSSIAN(noise), epsilon)
    yield fixed, case["delta_deterministic"], case["delta_deterministic"]
    yield fixed, case["delta_shuffle_lower_bound"], 1.0
    poisson = accounting.event_delta(run(case), epsilon)
    yield poisson, case["delta_poisson_exact"], case["delta_poisson_exact"]


def calibrated(case):
    return {
        "target_epsilon": case["target_epsilon"],
        "delta": case["delta"],
        "sampling_prob": case["sampling_prob"],
    }


def noise(case):
    answer = accounting.calibrate_noise_multiplier(
        **calibrated(case), num_steps=case["steps"]
    )
    yield answer, case["sigma_exact"], case["sigma_exact"]


def steps(case):
    answer = accounting.calibrate_num_steps(
        **calibrated(case), noise_multiplier=case["noise_multiplier"]
    )
    yield answer, case["steps_exact"], case["steps_exact"]


ANSWERS = {
    "degenerate": degenerate,
    "laplace": laplace,
    "sampled laplace": sampled_laplace,
    "replace": replace,
    "fixed size": fixed_size,
    "tree": tree,
    "zcdp": zcdp,
    "banded": banded,
    "truncated": truncated,
    "group": group,
    "order": order_of_batches,
    "delta": delta,
    "noise": noise,
    "steps": steps,
}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_answer_is_between_the_numbers_that_are_known(case):
    for answer, low, high in ANSWERS[case["kind"]](case):
        # The known truths are good to about nine digits.
        assert low * (1 - 4e-9) <= answer <= high * (1 + 4e-9)


def test_every_kind_of_case_is_asked():
    assert {case["kind"] for case in CASES} == set(ANSWERS)
