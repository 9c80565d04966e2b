"""Audits of a trainer as a black box: attacks on it bound epsilon from below."""

import numpy as np
from broken_trainers import Array, Trainer, plan
from trainer_attacks import ATTACKS, Attack
from trainer_terms import LARGE, USUAL, Check, Terms, Verdict, without, worst

from dpjax.auditing import one_run_epsilon

SIGNIFICANCE = 0.01
"""Probability, at most, that a kind of audit finds fault where there is none."""

CANARIES = 1000


def audit_of_end(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Attack the model at the end of training: bounds on epsilon, in nats."""
    return _audit(trainer, terms, "end")


def audit_of_steps(trainer: Trainer, terms: Terms = USUAL) -> Verdict | None:
    """Attack by what the steps tell, and their sum does not."""
    return _audit(trainer, terms, "steps") if terms.samples else None


def audit_of_one_run(trainer: Trainer, terms: Terms = USUAL) -> Verdict:
    """Attack one run with many canaries, each in it by a fair coin."""
    coins = np.random.default_rng(1).random(CANARIES) < 0.5
    # Every canary has a coordinate of its own, in either layer.
    canaries = LARGE * np.eye(CANARIES, dtype=np.float32)
    canaries = canaries.reshape(CANARIES, 2, CANARIES // 2)
    examples = without(canaries[coins], canaries[~coins], terms.absent)
    rows = CANARIES // 2 if terms.absent == "removed" else CANARIES
    promise = plan(6.0, rows=rows, steps=4)
    (steps,) = np.asarray(trainer(promise, examples, 1, 5))
    guessed, right = _guesses(steps.sum(axis=0).ravel(), coins)
    found = one_run_epsilon(
        num_canaries=CANARIES,
        num_guesses=guessed,
        num_correct=right,
        delta=1e-5,
        significance=SIGNIFICANCE,
        method="fdp",
    )
    stated = float(promise.epsilon(1e-5))
    return Verdict(bool(found > stated), float(found), stated, "many canaries")


def _guesses(scores: Array, coins: Array) -> tuple[int, int]:
    """Return how many guesses are made, and how many are right.

    A quarter of the canaries is guessed to be in, a quarter to be out.
    """
    order = np.argsort(np.nan_to_num(scores, nan=1e9))
    quarter = CANARIES // 4
    right = (~coins[order[:quarter]]).sum() + coins[order[-quarter:]].sum()
    return 2 * quarter, int(right)


def _audit(trainer: Trainer, terms: Terms, sees: str) -> Verdict:
    return worst(
        _of_attack(trainer, attack, terms)
        for attack in ATTACKS
        if attack.sees == sees
        and (terms.samples or attack.worlds.plan.sampling_prob == 1)
    )


def _of_attack(trainer: Trainer, attack: Attack, terms: Terms) -> Verdict:
    level = SIGNIFICANCE / len(ATTACKS)
    found = attack.bound(trainer, terms, significance=level)
    stated = attack.worlds.stated
    return Verdict(bool(found > stated), float(found), stated, attack.title)


AUDITS: dict[str, Check] = {
    "model at the end": audit_of_end,
    "all steps": audit_of_steps,
    "one run": audit_of_one_run,
}
