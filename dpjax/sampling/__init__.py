"""Which examples enter which step, on the host, and what that is worth in privacy.

A sampler draws the batches *and* states their accounting event, so that the two cannot
disagree. Step t's draw is a pure function of (key, t): a run goes on from any step.

Batches have a static shape: a step is a list of chunks of `chunk_size` indices, padded
under a mask. What does not fit into one chunk goes into further ones: nothing is lost.
"""

from dpjax.sampling.allocation import BallsInBins, RandomAllocation
from dpjax.sampling.cyclic import CyclicPoisson
from dpjax.sampling.epochs import Deterministic, ShuffledEpochs
from dpjax.sampling.fixed import FixedSize, FixedSizeWithReplacement
from dpjax.sampling.poisson import Poisson, TruncatedPoisson, default_chunk_size
from dpjax.sampling.sampler import IndexChunk, Sampler
from dpjax.sampling.separated import BMinSep
from dpjax.sampling.users import UserChunk, Users, group_by_user, mean_loss

__all__ = [
    "BMinSep",
    "BallsInBins",
    "CyclicPoisson",
    "Deterministic",
    "FixedSize",
    "FixedSizeWithReplacement",
    "IndexChunk",
    "Poisson",
    "RandomAllocation",
    "Sampler",
    "ShuffledEpochs",
    "TruncatedPoisson",
    "UserChunk",
    "Users",
    "default_chunk_size",
    "group_by_user",
    "mean_loss",
]
