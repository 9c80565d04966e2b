"""One value from which sampler, clipping, noise and accounting event are all derived.

What is clipped, how batches are drawn, how much noise is added and what is accounted
cannot disagree, because there is one place where they are written down.
"""

from dpjax.mechanism.discrete_sgd import DPDiscreteSGD
from dpjax.mechanism.dpsgd import DPSGD
from dpjax.mechanism.individual_sgd import DPIndividualSGD
from dpjax.mechanism.matrix_factorization import DPMatrixFactorization
from dpjax.mechanism.nonprivate import NonPrivate
from dpjax.mechanism.not_a_guarantee import NotAGuarantee
from dpjax.mechanism.private import PrivateBatches
from dpjax.mechanism.relations import RELATION_WORDS, SOUND_PAIRS, relation_words
from dpjax.mechanism.staged import DPStagedSGD

__all__ = [
    "DPSGD",
    "RELATION_WORDS",
    "SOUND_PAIRS",
    "DPDiscreteSGD",
    "DPIndividualSGD",
    "DPMatrixFactorization",
    "DPStagedSGD",
    "NonPrivate",
    "NotAGuarantee",
    "PrivateBatches",
    "relation_words",
]
