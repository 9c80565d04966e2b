"""What accountants are asked: the questions of each table, and what comes of them."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import accounting_client

Clients = Mapping[str, accounting_client.Client]

_DATA = pathlib.Path(__file__).parents[1] / "data" / "exact_cases.json"

SHOWN = (
    "typ-1.0-0.004-15000",
    "pub-de2022-cifar10-eps1",
    "pub-de2022-imagenet-eps8",
    "pub-tfp-statement-poisson",
    "pub-opacus-rdp",
    "pub-tfp-test2",
    "pub-msr-3.0-0.001-100",
    "corner-tinyq-1-1e-6-1e6",
    "corner-tinyq-1-1e-5-1e6",
    "corner-s100-0.01-1",
    "corner-s0.4-0.1-10000",
    "corner-d1e-15",
    "het-tinyq-mix",
)
"""The cases that have a row of their own."""

CALIBRATIONS = ("typ-1.0-0.004-15000", "pub-de2022-imagenet-eps8")
"""Cases whose noise multiplier is to be found from their epsilon."""

CURVES = ((1.0, 0.004), (0.7, 0.001))
"""Noise and rate. The second is sampled too rarely for contours at first."""

GRIDS = ("library_pld", "prv")
"""Peers whose grid can be refined."""

_FINEST = 8
"""Powers of ten by which grids are refined at most."""

TARGETS = (
    {"target": 1.0, "delta": 1e-7, "sampling_prob": 1e-5, "steps": 1_000_000},
    {"target": 1.0, "delta": 1e-6, "sampling_prob": 1e-4, "steps": 1_000_000},
)
PUBLISHED = (
    ("De et al. 2022, CIFAR-10", 1.0, "pub-de2022-cifar10-eps1"),
    ("De et al. 2022, ImageNet", 8.0, "pub-de2022-imagenet-eps8"),
)


class Options(NamedTuple):
    """How to ask.

    Attributes:
        rounds: Times that a question is put.
        quick: Ask little, for a trial.
    """

    rounds: int
    quick: bool


def cases() -> dict[str, dict[str, Any]]:
    """Return the reference cases that list their segments, by id."""
    found = json.loads(_DATA.read_text())["cases"]
    return {c["id"]: c for c in found if not isinstance(c["segments"], str)}


def epsilons(clients: Clients, options: Options) -> list[dict[str, Any]]:
    """Return epsilon, error and seconds of every case by everyone, and the refined.

    The grid of a peer becomes ten times as fine until its error is not above ours, or
    the tolerance of the reference, or until it takes longer than we do: from there on,
    it only gets slower.
    """
    chosen = list(cases().items())
    return [
        _case_row(name, case, clients, options)
        for name, case in (chosen[:2] if options.quick else chosen)
    ]


def jobs(clients: Clients, options: Options) -> list[dict[str, Any]]:
    """Return the seconds of the larger jobs."""
    rows = []
    for name in CALIBRATIONS[: 1 if options.quick else 2]:
        case = cases()[name]
        ((noise, rate, steps),) = case["segments"]
        question = {
            "target": case["epsilon"],
            "delta": case["delta"],
            "sampling_prob": rate,
            "steps": steps,
        }
        title = f"noise multiplier {noise:g} from its epsilon, q = {rate:.4g}"
        rows.append(_job(title, "noise", question, noise, clients))
    size = 10 if options.quick else 10_000
    for noise, rate in CURVES[: 1 if options.quick else 2]:
        question = {"noise": noise, "sampling_prob": rate, "delta": 1e-5}
        question["steps"] = list(range(1, size + 1))
        title = f"epsilon after each of {size:,} steps, noise {noise:g}, q = {rate:g}"
        rows.append(_job(title, "curve", question, None, clients))
    size = 10 if options.quick else 1000
    segments = [(1 + i / 1000, 0.01, 1) for i in range(size)]
    question = {"segments": segments, "delta": 1e-5}
    title = f"{size:,} different segments"
    rows.append(_job(title, "epsilon", question, None, clients))
    return rows


def savings(clients: Clients, options: Options) -> dict[str, Any]:
    """Return what the exact accountant saves: noise for a target, and epsilon."""
    answers: dict[str, Any] = {"noise": [], "published": []}
    both = [clients[name] for name in ("exact", "rdp") if name in clients]
    if len(both) < 2:
        return answers
    exact, rdp = both
    for target in TARGETS[: 1 if options.quick else 2]:
        row = dict(target)
        for name, client in (("exact", exact), ("rdp", rdp)):
            row[name] = client.ask("noise", **target)["value"]
        rate, steps = target["sampling_prob"], target["steps"]
        segments = [(row["rdp"], rate, steps)]
        question = {"segments": segments, "delta": target["delta"]}
        row["spent_with_rdp"] = exact.ask("epsilon", **question)["value"]
        answers["noise"].append(row)
    for title, stated, name in PUBLISHED[: 1 if options.quick else 2]:
        case = cases()[name]
        ((noise, rate, steps),) = case["segments"]
        question = {"segments": case["segments"], "delta": case["delta"]}
        row = {"title": title, "stated": stated, "noise": noise} | question
        row["exact"] = exact.ask("epsilon", **question)["value"]
        row["rdp"] = rdp.ask("epsilon", **question)["value"]
        target = {"target": stated, "delta": case["delta"]}
        target |= {"sampling_prob": rate, "steps": steps}
        row["noise_needed"] = exact.ask("noise", **target)["value"]
        answers["published"].append(row)
    return answers


PARTS: dict[str, Callable[[Clients, Options], Any]] = {
    "epsilons": epsilons,
    "jobs": jobs,
    "savings": savings,
}
"""The tables, in the order in which they are measured."""


def _case_row(
    name: str, case: Mapping[str, Any], clients: Clients, options: Options
) -> dict[str, Any]:
    question = {"segments": case["segments"], "delta": case["delta"]}
    row: dict[str, Any] = {"case": name, **question, "epsilon": case["epsilon"]}
    row["tolerance"] = case["tolerance"]
    row["answers"] = {
        peer: _judged(
            client.ask("epsilon", rounds=options.rounds, **question), case["epsilon"]
        )
        for peer, client in clients.items()
    }
    row["method"] = clients["exact"].ask("method", **question).get("value")
    row["refined"] = {
        peer: _refine(clients[peer], row) for peer in GRIDS if peer in clients
    }
    verdicts = {peer: found["verdict"] for peer, found in row["refined"].items()}
    print("epsilons:", name, row["method"], verdicts, flush=True)
    return row


def _judged(answer: dict[str, Any], truth: float) -> dict[str, Any]:
    """Return an answer with its relative error: negative below the truth."""
    if "value" not in answer:
        return answer
    return answer | {"error": answer["value"] / truth - 1}


def level(row: Mapping[str, Any]) -> float:
    """Return the error that a peer has to reach: ours, or the reference's tolerance."""
    mine: float = row["answers"]["exact"]["error"]
    return max(abs(mine), row["tolerance"])


def _refine(client: accounting_client.Client, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last answer with the peer's verdict: "ahead", "behind" or "unable"."""
    last: dict[str, Any] = {"verdict": "unable"}
    answer = row["answers"][client.name]
    for fineness in range(_FINEST):
        if fineness:
            question = {"segments": row["segments"], "delta": row["delta"]}
            answer = client.ask("epsilon", fineness=fineness, **question)
        if "value" not in answer:
            verdict = "behind" if "late" in answer else last["verdict"]
            return {**answer, **last, "verdict": verdict}
        last = _judged(answer, row["epsilon"]) | {"fineness": fineness}
        last["verdict"] = "behind"
        if answer["seconds"] > row["answers"]["exact"]["seconds"]:
            break
        if abs(last["error"]) <= level(row):
            return last | {"verdict": "ahead"}
    return last


def _job(
    title: str,
    task: str,
    question: Mapping[str, Any],
    truth: float | None,
    clients: Clients,
) -> dict[str, Any]:
    answers = {}
    for peer, client in clients.items():
        found = client.ask(task, **question)
        if truth is not None:
            found = _judged(found, truth)
        if isinstance(found.get("value"), list):
            found["value"] = found["value"][-1]
        answers[peer] = found
        print("jobs:", title, peer, found, flush=True)
    return {"title": title, "task": task, "answers": answers}
