"""Differentially private training for JAX: clip, sum, noise, account."""

from dpjax import (
    accounting,
    clipping,
    curvature,
    diagnostics,
    noise,
    release,
    sampling,
)
from dpjax.accounting import (
    BudgetExceeded,
    Epsilon,
    PrivacyLedger,
    calibrate_noise_multiplier,
    calibrate_num_steps,
    epsilon_curve,
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from dpjax.autodiff import (
    hessian,
    hvp,
    jacobian,
    per_example_grad,
    straight_through,
)
from dpjax.clipping import (
    ClippedGrads,
    check_example_independence,
    clipped_grad,
    explain,
)
from dpjax.curvature import MatVec, Private, Public
from dpjax.mechanism import DPSGD, NonPrivate
from dpjax.optimizers import (
    PrivacySpent,
    check_optimizer,
    differentially_private_aggregate,
    dpadam,
    dpadamw,
    dpsgd,
    privacy_spent,
    privatize,
)

__all__ = [
    "DPSGD",
    "BudgetExceeded",
    "ClippedGrads",
    "Epsilon",
    "MatVec",
    "NonPrivate",
    "PrivacyLedger",
    "PrivacySpent",
    "Private",
    "Public",
    "accounting",
    "calibrate_noise_multiplier",
    "calibrate_num_steps",
    "check_example_independence",
    "check_optimizer",
    "clipped_grad",
    "clipping",
    "curvature",
    "diagnostics",
    "differentially_private_aggregate",
    "dpadam",
    "dpadamw",
    "dpsgd",
    "epsilon_curve",
    "exact_epsilon",
    "explain",
    "hessian",
    "hvp",
    "jacobian",
    "noise",
    "per_example_grad",
    "pld_epsilon",
    "privacy_spent",
    "privatize",
    "rdp_epsilon",
    "release",
    "sampling",
    "straight_through",
]
