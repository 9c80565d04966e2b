"""Statistics of private data, released through the clip-sum-noise core of training."""

from dpjax.release.discrete import private_discrete_mean
from dpjax.release.hvp import private_hvp
from dpjax.release.mean import private_mean
from dpjax.release.quantile import QuantileRelease, private_quantile
from dpjax.release.result import Release
from dpjax.release.search import SearchResult, private_search
from dpjax.release.trace import TraceRelease, private_trace

__all__ = [
    "QuantileRelease",
    "Release",
    "SearchResult",
    "TraceRelease",
    "private_discrete_mean",
    "private_hvp",
    "private_mean",
    "private_quantile",
    "private_search",
    "private_trace",
]
