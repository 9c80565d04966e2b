"""Clipping rules: from the norms of one example's gradient to its clip factors.

A rule never sees a gradient, only norms, and so it works with every engine. It promises
one thing: with its factors applied, one example moves the sum by at most
`rule.sensitivity`.
"""

from dpjax.clipping.rules.grouping import norm_bound
from dpjax.clipping.rules.individual import (
    IndividualClip,
    for_batch,
    individual_clip_norm,
    rows_of,
    with_rows,
)
from dpjax.clipping.rules.norm_clip import NormClip, as_rule
from dpjax.clipping.rules.per_layer import PerLayer, per_layer_clip_norms
from dpjax.clipping.rules.rule import ClippingRule
from dpjax.clipping.rules.smooth import Automatic, PerSampleAdaptive

__all__ = [
    "Automatic",
    "ClippingRule",
    "IndividualClip",
    "NormClip",
    "PerLayer",
    "PerSampleAdaptive",
    "as_rule",
    "for_batch",
    "individual_clip_norm",
    "norm_bound",
    "per_layer_clip_norms",
    "rows_of",
    "with_rows",
]
