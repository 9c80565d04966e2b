"""What clipping and noise do to a step: numbers for who tunes private training.

Two are free where the step has its `ClippedGrads`: `fraction_clipped`,
`signal_to_noise`. The others need one more pull-back or two. All are exact looks at the
batch: of private examples, each costs a `NonPrivateDpEvent`.
"""

from dpjax.diagnostics.bias import ClippingBias, clipping_bias
from dpjax.diagnostics.floor import NoiseFloor, noise_floor
from dpjax.diagnostics.gain import StepGain, step_gain
from dpjax.diagnostics.scatter import GradientNoise, gradient_noise
from dpjax.diagnostics.step import fraction_clipped, signal_to_noise

__all__ = [
    "ClippingBias",
    "GradientNoise",
    "NoiseFloor",
    "StepGain",
    "clipping_bias",
    "fraction_clipped",
    "gradient_noise",
    "noise_floor",
    "signal_to_noise",
    "step_gain",
]
