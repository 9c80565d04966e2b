"""A curvature study as plain numbers: what its page is made from."""

import dataclasses
from typing import Any

from dpjax.report.folder import Run

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues at one end of the spectrum, the outermost first.

    Attributes:
      values: the eigenvalues.
      residuals: the spectrum has an eigenvalue at most this far from each.
    """

    values: list[float]
    residuals: list[float]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values `y` over increasing `x`."""

    x: list[float]
    y: list[float]


@dataclasses.dataclass(frozen=True)
class Plane:
    """The loss over two directions: `values[i][j]` lies at `x[i]`, `y[j]`."""

    x: list[float]
    y: list[float]
    values: list[list[float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What one private step of plain SGD is expected to do at the final parameters.

    Attributes:
      clip_norm: of one example's gradient.
      noise_std: of the noise in each coordinate of the mean: s = sigma C / B.
      fraction_clipped: of the examples.
      cosine: of the angle between clipped and raw mean gradient.
      norm_ratio: length of the clipped over that of the raw mean gradient.
      loss_change: expected, at the run's learning rate.
      noise_cost: the part of it that the noise adds: 0.5 eta^2 s^2 tr H.
      best_learning_rate: where the expected change is least.
      best_loss_change: expected there; None where there is no such rate above zero.
      noise_share: of the gain that the step could have without noise, how much the
        noise takes, at the best rate with and without it; None likewise.
      double_noise_multiplier: what twice the batch needs for the same epsilon; None
        where it was not solved for.
      double_noise_ratio: noise of twice the batch over noise now, both per coordinate
        of the mean; None likewise.
    """

    clip_norm: float
    noise_std: float
    fraction_clipped: float
    cosine: float
    norm_ratio: float
    loss_change: float
    noise_cost: float
    best_learning_rate: float
    best_loss_change: float | None
    noise_share: float | None
    double_noise_multiplier: float | None
    double_noise_ratio: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The curvature at the final parameters of one run.

    Attributes:
      run: the run folder.
      is_public: whether every number here was taken on public examples.
      examples: which examples, in words.
      num_examples: how many the Hessian is the mean of.
      num_slice_examples: how many the slices and `step` are of.
      num_parameters: the number of eigenvalues.
      parameter_norm: length of the parameters.
      loss: mean loss of the examples.
      top: the largest eigenvalues; the first is the sharpness.
      bottom: the smallest eigenvalues.
      trace: estimate of the sum of all eigenvalues.
      trace_stderr: its standard error over the probes.
      spectrum: eigenvalues per bandwidth: one that stands alone is a peak of height 1.
      slice_top: loss over steps along the sharpest direction, of length 1.
      slice_random: loss over steps along a random direction, of length 1; its steps
        are other ones.
      plane: loss over the sharpest and the random direction.
      step: what a private step is expected to do; None for a run without privacy.
      method: how the numbers were computed, for a table.
    """

    run: Run
    is_public: bool
    examples: str
    num_examples: int
    num_slice_examples: int
    num_parameters: int
    parameter_norm: float
    loss: float
    top: Eigenvalues
    bottom: Eigenvalues
    trace: float
    trace_stderr: float
    spectrum: Curve
    slice_top: Curve
    slice_random: Curve
    plane: Plane
    step: Step | None
    method: dict[str, Any]

    @property
    def sharpness(self) -> float:
        """Return the largest eigenvalue."""
        return self.top.values[0]

    @property
    def reach(self) -> tuple[float, float]:
        """Return how far the slices go: the sharpest, and the random one."""
        return self.slice_top.x[-1], self.slice_random.x[-1]

    @property
    def name(self) -> str:
        """Return which run this is, in a word or two."""
        return "private" if self.run.config["private"] else "without privacy"

    def as_object(self) -> dict[str, Any]:
        """Return the numbers as a JSON object, with the run's folder by its name."""
        names = [
            field.name for field in dataclasses.fields(self) if field.name != "run"
        ]
        parts = {name: getattr(self, name) for name in names}
        return {
            "run": self.run.path.absolute().name,
            "private": self.run.config["private"],
        } | {name: _plain(part) for name, part in parts.items()}


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.asdict(part)
    return part
