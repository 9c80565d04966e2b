"""The loss on lines and on a plane through the parameters, as plain numbers."""

import math
from collections.abc import Sequence
from typing import Any

import curvature_probe
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import report
from dpjax.curvature.landscape import loss_slice
from dpjax.curvature.sources import Source

LINE_POINTS, PLANE_POINTS = 41, 17

_FARTHEST = 100.0
_DIRECTION_KEY = 3  # not secret


def length(batch: Source) -> int:
    """Return the number of examples."""
    return len(batch.batch[0])


def reach_of(loss: float, curvature: float) -> float:
    """Return how far a quadratic of this curvature must go to add about the loss."""
    squared = 2 * max(loss, 0.5) / curvature if curvature > 0 else 1.0
    return math.sqrt(squared) if squared < _FARTHEST**2 else _FARTHEST


def measure(
    loss: curvature_probe.Loss,
    params: Any,
    batches: Sequence[Source],
    top: Any,
    reach: tuple[float, ...],
) -> dict[str, Any]:
    """Return the loss along the sharpest and a random direction, and over both.

    Args:
      loss: `loss(params, *example)`, the loss of ONE example.
      params: the middle of every slice.
      batches: the examples.
      top: directions on a leading axis, the sharpest first, each of length 1.
      reach: how far to go in the sharpest, and in the random direction.

    Returns:
      The fields of `report.Study` that are slices, by name.
    """
    sharpest = jax.tree.map(lambda leaf: leaf[0], top)
    noise = optax.tree.random_like(jax.random.key(_DIRECTION_KEY), sharpest)
    size = optax.tree.norm(noise)
    directions = [sharpest, jax.tree.map(lambda leaf: leaf / size, noise)]

    def values(along: list[Any], offsets: list[jax.Array]) -> list[Any]:
        parts = [loss_slice(loss, params, b, along, offsets).value for b in batches]
        sizes = [length(batch) for batch in batches]
        return np.average(np.asarray(parts, np.float64), 0, sizes).tolist()

    lines = [jnp.linspace(-end, end, LINE_POINTS) for end in reach]
    sides = [jnp.linspace(-end, end, PLANE_POINTS) for end in reach]
    top_curve, random_curve = (
        report.Curve(line.tolist(), values([direction], [line]))
        for line, direction in zip(lines, directions, strict=True)
    )
    plane = report.Plane(
        sides[0].tolist(), sides[1].tolist(), values(directions, sides)
    )
    return {"slice_top": top_curve, "slice_random": random_curve, "plane": plane}
