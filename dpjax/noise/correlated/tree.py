"""Tree aggregation: noise on the sums of dyadic blocks of steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dpjax.noise.correlated.participation import Participation
from dpjax.noise.correlated.strategy import Draw, Strategy, zeros
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class BinaryTree(Strategy):
    """C has a row for each complete block of 2^h steps, h = 0, 1, ..., its sum.

    Blocks are numbered as they end, small ones first. The prefix sum after step t is
    that of the blocks in the binary digits of t + 1. Each of them is estimated from all
    noisy sums inside of it, with weights of least variance, which is the best that can
    be made of what is known at the time. One pending estimate a level is remembered.

    References:
      Dwork, Naor, Pitassi and Rothblum (2010), Differential privacy under continual
      observation; Honaker (2015), Efficient use of differentially private binary trees
      (estimation from below); Kairouz et al. (2021), Practical and private (deep)
      learning without sampling or shuffling, arXiv 2103.00039.

    >>> BinaryTree().matrix(2)
    array([[1., 0.],
           [0., 1.],
           [1., 1.]])
    """

    def matrix(self, num_steps: int) -> np.ndarray:
        """Return C, (blocks, num_steps) float64."""
        rows = []
        for end in range(1, num_steps + 1):
            for height in range(_trailing_zeros(end) + 1):
                row = np.zeros(num_steps)
                row[end - 2**height : end] = 1
                rows.append(row)
        return np.array(rows)

    def noise_matrix(self, num_steps: int) -> np.ndarray:
        """Return M, (num_steps, blocks) float64."""
        precisions = _precisions(num_steps.bit_length())
        blocks = 2 * num_steps - num_steps.bit_count()
        draws = iter(np.eye(blocks))
        pending: list[np.ndarray] = []
        rows = []
        for end in range(1, num_steps + 1):
            estimate, taken = next(draws), np.zeros(blocks)
            for height in range(1, _trailing_zeros(end) + 1):
                left = pending.pop()
                below = precisions[height - 1] / 2 * (left + estimate)
                estimate = (next(draws) + below) / precisions[height]
                taken = taken + left
            pending.append(estimate)
            rows.append(estimate - taken)
        return np.array(rows)

    def variances(self, num_steps: int, workload: np.ndarray) -> np.ndarray:
        """Return the squared norms of the rows of A M.

        For prefix sums, and for single steps, they follow from binary digits; for other
        workloads a dense matrix is made.
        """
        levels, ends = num_steps.bit_length(), np.arange(1, num_steps + 1)
        if np.all(workload == 1):
            digits = ends[:, None] >> np.arange(levels) & 1
            return digits @ (1 / _precisions(levels))
        if not workload[1:].any():
            heights = np.bitwise_count((ends & -ends) - 1)
            return workload[0] ** 2 * _row_variances(levels)[heights]
        return super().variances(num_steps, workload)

    def pattern_norm_squared(self, positions: np.ndarray, num_steps: int) -> float:
        """Return the squared norm of the sum of some columns of C."""
        total = 0
        for height in range(num_steps.bit_length()):
            blocks = np.asarray(positions) >> height
            counts = np.bincount(blocks[blocks < num_steps >> height])
            total += int(np.sum(counts.astype(np.int64) ** 2))
        return float(total)

    def spread_bound(self, participation: Participation, num_steps: int) -> float:
        """Return a bound on `pattern_norm_squared` of any pattern of a participation.

        A block holds no more of a pattern than as many steps in a row can: on each
        level, the sum of squares is largest where as many blocks as can be are full.
        """
        count, total = participation.count(num_steps), 0
        for height in range(num_steps.bit_length()):
            blocks = num_steps >> height
            most = min(count, participation.within(2**height))
            full = min(count // most, blocks)
            rest = count - full * most if full < blocks else 0
            total += full * most**2 + rest**2
        return float(total)

    def init_buffers(self, rows: ArrayTree, num_steps: int) -> ArrayTree:
        """Return room for an estimate of each level."""
        return zeros(rows, num_steps.bit_length())

    def next_noise(
        self, draw: Draw, step: jax.Array, buffers: ArrayTree
    ) -> tuple[ArrayTree, ArrayTree]:
        """Return the change of the noise in the prefix sum, by step `step`."""
        levels = jax.tree.leaves(buffers)[0].shape[0]
        precisions = jnp.asarray(_precisions(levels), jnp.float32)
        first = 2 * step - lax.population_count(step)
        height = lax.population_count((step ^ (step + 1)) >> 1).astype(jnp.int32)

        def climb(level: jax.Array, carry: ArrayTree) -> ArrayTree:
            half, whole = precisions[level - 1] / 2, precisions[level]
            drawn = draw(first + level.astype(jnp.uint32))

            def combined(left: jax.Array, right: jax.Array, z: jax.Array) -> jax.Array:
                return (z + half.astype(z.dtype) * (left + right)) / whole.astype(
                    z.dtype
                )

            estimate, taken = carry
            left = jax.tree.map(lambda leaf: leaf[level - 1], buffers)
            estimate = jax.tree.map(combined, left, estimate, drawn)
            return estimate, jax.tree.map(jnp.add, taken, left)

        leaf = draw(first)
        start = leaf, jax.tree.map(jnp.zeros_like, leaf)
        estimate, taken = lax.fori_loop(1, height + 1, climb, start)
        buffers = jax.tree.map(
            lambda pending, value: pending.at[height].set(value), buffers, estimate
        )
        return jax.tree.map(jnp.subtract, estimate, taken), buffers


def _precisions(levels: int) -> np.ndarray:
    """Return one over the variance of a block's estimate, for each level: (levels,)."""
    values = [1.0]
    for _ in range(1, levels):
        values.append(1 + values[-1] / 2)
    return np.array(values)


def _row_variances(levels: int) -> np.ndarray:
    """Return the variance of a row of M Z that ends a block of each height: (levels,).

    The row is the estimate of that block, less those of the left halves in it: the
    right half's own, if there were no block above, and what goes up with each of them.
    """
    precisions = _precisions(levels)
    up = np.append(precisions[:-1] / (2 * precisions[1:]), 1.0)
    found = []
    for height in range(levels):
        # What is left of the draw, and of the left half, of each level at the top.
        kept = np.cumprod(np.append(up[:height], 1.0)[::-1])[::-1]
        own = np.sum((kept / precisions[: height + 1]) ** 2)
        left = np.sum((kept[:-1] - 1) ** 2 / precisions[:height])
        found.append(own + left)
    return np.array(found)


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1
