"""Audits: attack the training, and see whether its promise can hold."""

import importlib
from typing import Any

from dpjax.auditing import tensorflow_privacy
from dpjax.auditing.attacks import lira, logit_scores, rmia
from dpjax.auditing.audit_report import AuditReport
from dpjax.auditing.bayesian import credible_interval
from dpjax.auditing.canaries import ExampleCanaries, GradientCanaries
from dpjax.auditing.coin import AuditError
from dpjax.auditing.curves import Interval, auroc, tpr_at_fpr
from dpjax.auditing.from_scores import epsilon_from_counts, epsilon_from_scores
from dpjax.auditing.lower_bound import LowerBound
from dpjax.auditing.one_run import one_run_epsilon
from dpjax.auditing.planting import with_canaries
from dpjax.auditing.secrets import exposure
from dpjax.auditing.slices import Slice, attack_slices

__all__ = [
    "AuditError",
    "AuditReport",
    "ExampleCanaries",
    "GradientCanaries",
    "Interval",
    "LowerBound",
    "Slice",
    "attack_slices",
    "auroc",
    "credible_interval",
    "epsilon_from_counts",
    "epsilon_from_scores",
    "exposure",
    "lira",
    "logit_scores",
    "one_run_audit",
    "one_run_epsilon",
    "rmia",
    "tensorflow_privacy",
    "tpr_at_fpr",
    "with_canaries",
]

_OF_TRAINING = {"one_run_audit": "dpjax.auditing.audit"}
"""What needs `dpjax.training`, and with it what takes seconds to import."""


def __getattr__(name: str) -> Any:
    if name not in _OF_TRAINING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OF_TRAINING[name]), name)
