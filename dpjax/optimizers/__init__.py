"""Private optimizers for optax."""

from dpjax.optimizers.adaptive import (
    AdaptiveClip,
    AdaptiveClipState,
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
from dpjax.optimizers.correlated import (
    CorrelatedAggregateState,
    correlated_aggregate,
)
from dpjax.optimizers.discrete_aggregate import (
    DiscreteAggregateState,
    discrete_aggregate,
)
from dpjax.optimizers.ftrl import FtrlState, ftrl
from dpjax.optimizers.individual import (
    IndividualGrads,
    IndividualState,
    individual_aggregate,
    individual_gradient,
)
from dpjax.optimizers.order import check_optimizer
from dpjax.optimizers.partial import (
    SplitParams,
    adapted,
    adapted_loss,
    low_rank_adapters,
    merge_params,
    partial_loss,
    split_params,
)
from dpjax.optimizers.released_clip import ReleasedClip
from dpjax.optimizers.scale_then_privatize import (
    ScaledAggregateState,
    ScaledClip,
    scale_then_privatize,
)
from dpjax.optimizers.scaled_grads import ScaledGrads, clipped_scaled_grad
from dpjax.optimizers.scheduled_clip import ScheduledClip
from dpjax.optimizers.sharpness_aware import (
    SharpnessAwareState,
    sharpness_aware,
    trained_params,
)
from dpjax.optimizers.sparse_row_clip import SparseRowClip
from dpjax.optimizers.sparse_rows import (
    RowGrads,
    SparseRowState,
    sparse_row_aggregate,
)
from dpjax.optimizers.spent import PrivacySpent, privacy_spent
from dpjax.optimizers.voted import VotedGrads

__all__ = [
    "AdaptiveClip",
    "AdaptiveClipState",
    "CorrectedAdamState",
    "CorrelatedAggregateState",
    "DiscreteAggregateState",
    "FtrlState",
    "IndividualGrads",
    "IndividualState",
    "PrivacySpent",
    "PrivateAggregateState",
    "ReleasedClip",
    "RowGrads",
    "ScaledAggregateState",
    "ScaledClip",
    "ScaledGrads",
    "ScheduledClip",
    "SharpnessAwareState",
    "SparseRowClip",
    "SparseRowState",
    "SplitParams",
    "VotedGrads",
    "adapted",
    "adapted_loss",
    "adaptive_clip_aggregate",
    "adaptive_clip_norm",
    "average_gradients",
    "check_optimizer",
    "clipped_scaled_grad",
    "corrected_adam",
    "correlated_aggregate",
    "differentially_private_aggregate",
    "discrete_aggregate",
    "dpadam",
    "dpadamw",
    "dpsgd",
    "ftrl",
    "individual_aggregate",
    "individual_gradient",
    "low_rank_adapters",
    "merge_params",
    "partial_loss",
    "privacy_spent",
    "privatize",
    "scale_by_corrected_adam",
    "scale_then_privatize",
    "sharpness_aware",
    "sparse_row_aggregate",
    "split_params",
    "trained_params",
]
