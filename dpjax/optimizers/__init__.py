"""Private optimizers for optax."""

from dpjax.optimizers.adaptive import (
    AdaptiveClip,
    AdaptiveClipState,
    VotedGrads,
    adaptive_clip_aggregate,
    adaptive_clip_norm,
)
from dpjax.optimizers.aggregate import (
    PrivateAggregateState,
    average_gradients,
    differentially_private_aggregate,
)
from dpjax.optimizers.aliases import dpadam, dpadamw, dpsgd, privatize
from dpjax.optimizers.corrected_adam import (
    CorrectedAdamState,
    corrected_adam,
    scale_by_corrected_adam,
)
from dpjax.optimizers.order import check_optimizer
from dpjax.optimizers.spent import PrivacySpent, privacy_spent

__all__ = [
    "AdaptiveClip",
    "AdaptiveClipState",
    "CorrectedAdamState",
    "PrivacySpent",
    "PrivateAggregateState",
    "VotedGrads",
    "adaptive_clip_aggregate",
    "adaptive_clip_norm",
    "average_gradients",
    "check_optimizer",
    "corrected_adam",
    "differentially_private_aggregate",
    "dpadam",
    "dpadamw",
    "dpsgd",
    "privacy_spent",
    "privatize",
    "scale_by_corrected_adam",
]
