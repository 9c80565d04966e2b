"""Audits: attack the training, and see whether its promise can hold."""

from dpjax.auditing.attacks import lira, logit_scores, rmia
from dpjax.auditing.bayesian import credible_interval
from dpjax.auditing.curves import Interval, auroc, tpr_at_fpr
from dpjax.auditing.from_scores import epsilon_from_counts, epsilon_from_scores
from dpjax.auditing.lower_bound import LowerBound
from dpjax.auditing.one_run import one_run_epsilon
from dpjax.auditing.secrets import exposure

__all__ = [
    "Interval",
    "LowerBound",
    "auroc",
    "credible_interval",
    "epsilon_from_counts",
    "epsilon_from_scores",
    "exposure",
    "lira",
    "logit_scores",
    "one_run_epsilon",
    "rmia",
    "tpr_at_fpr",
]
