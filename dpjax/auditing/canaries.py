"""Canaries: what is put into a training run, or left out, to see whether it shows."""

import dataclasses
from typing import Any

from dpjax import _check

DIRECTIONS = ("dirac", "random")
KINDS = ("mislabelled", "random", "crafted")


@dataclasses.dataclass(frozen=True)
class GradientCanaries:
    """Examples whose gradient is a direction of their own, longer than the clip norm.

    | direction | canary i                                                          |
    | --------- | ----------------------------------------------------------------- |
    | "dirac"   | one coordinate of the parameters, of no other canary              |
    | "random"  | all coordinates equal, with random signs that are made anew from i |

    They are the strongest canaries there are, and need whoever sees every update (or,
    weaker, the first and the last parameters).

    Attributes:
      count: how many, m. About half of them are put in.
      direction: see the table.
      scale: gradient norm over the clip norm. Above 1 it is tested that clipping cuts
        a long gradient.
      seed: of the directions; public.

    Example:
      >>> GradientCanaries(1000).direction
      'dirac'

    References:
      Nasr et al. (2023), Tight auditing of differentially private machine learning,
      section 5; Steinke, Nasr and Jagielski (2023), Privacy auditing with one (1)
      training run, section 6, for many of them in one run.
    """

    count: int
    direction: str = "dirac"
    scale: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        _check.integer("count", self.count, minimum=1)
        _check.choice("direction", self.direction, DIRECTIONS)
        _check.positive("scale", self.scale)
        _check.integer("seed", self.seed, minimum=0)

    def describe(self) -> dict[str, Any]:
        """Return every setting, ready for JSON."""
        return {"family": "gradient", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class ExampleCanaries:
    """Examples like those of the data, a pair of features and integer labels.

    | kind          | canary                                                        |
    | ------------- | ------------------------------------------------------------- |
    | "mislabelled" | an example of the data with a wrong label                     |
    | "random"      | uniform noise in the range of the data, with a random label   |
    | "crafted"     | a direction in which the data vary least, one each, as long   |
    |               | as examples are, with a random label                          |

    They are what an outsider can do who adds examples and sees the model alone.

    Attributes:
      count: how many, m. About half of them are put in.
      kind: see the table.
      seed: of their features and labels; public.

    Example:
      >>> ExampleCanaries(500, "crafted").kind
      'crafted'

    References:
      Steinke, Nasr and Jagielski (2023), section 6, for mislabelled ones; Jagielski,
      Ullman and Oprea (2020), Auditing differentially private machine learning,
      algorithm 3 (ClipBKD), for directions of least variance.
    """

    count: int
    kind: str = "mislabelled"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        _check.integer("count", self.count, minimum=1)
        _check.choice("kind", self.kind, KINDS)
        _check.integer("seed", self.seed, minimum=0)

    def describe(self) -> dict[str, Any]:
        """Return every setting, ready for JSON."""
        return {"family": "example", **dataclasses.asdict(self)}


Canaries = GradientCanaries | ExampleCanaries
