"""Statistics of private data, released through the clip-sum-noise core of training."""

from dpjax.release.hvp import private_hvp
from dpjax.release.mean import private_mean
from dpjax.release.quantile import QuantileRelease, private_quantile
from dpjax.release.result import Release
from dpjax.release.trace import TraceRelease, private_trace

__all__ = [
    "QuantileRelease",
    "Release",
    "TraceRelease",
    "private_hvp",
    "private_mean",
    "private_quantile",
    "private_trace",
]
