"""Private optimizers for optax."""

from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    average_gradients,
    differentially_private_aggregate,
)
from dpjax.optimizers.aliases import dpadam, dpadamw, dpsgd, privatize
from dpjax.optimizers.order import check_optimizer
from dpjax.optimizers.spent import PrivacySpent, privacy_spent

__all__ = [
    "PrivacySpent",
    "PrivateAggregateState",
    "average_gradients",
    "check_optimizer",
    "differentially_private_aggregate",
    "dpadam",
    "dpadamw",
    "dpsgd",
    "privacy_spent",
    "privatize",
]
