"""One sampler of each kind, by name."""

from dpjax import sampling

SAMPLERS = {
    "Poisson": sampling.Poisson(),
    "truncated": sampling.TruncatedPoisson(40),
    "cyclic": sampling.CyclicPoisson(2),
    "fixed size": sampling.FixedSize(),
    "with replacement": sampling.FixedSizeWithReplacement(),
    "deterministic": sampling.Deterministic(),
    "shuffled": sampling.ShuffledEpochs(),
    "balls in bins": sampling.BallsInBins(),
    "random allocation": sampling.RandomAllocation(2),
    "b-min-sep": sampling.BMinSep(2),
}
