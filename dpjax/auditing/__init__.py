"""Audits: attack the training, and see whether its promise can hold."""

from dpjax.auditing.bayesian import credible_interval
from dpjax.auditing.from_scores import epsilon_from_counts, epsilon_from_scores
from dpjax.auditing.lower_bound import LowerBound
from dpjax.auditing.one_run import one_run_epsilon

__all__ = [
    "LowerBound",
    "credible_interval",
    "epsilon_from_counts",
    "epsilon_from_scores",
    "one_run_epsilon",
]
