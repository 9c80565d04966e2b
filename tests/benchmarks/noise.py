"""What Gaussian noise costs on this machine, a value. Run me as a script.

Side by side in one process, in turns: `jax.random.bits`, `jax.random.normal` and
`dpjax.noise.gaussian_noise`, float32, each compiled with the sum that it is added to.
Medians of wall time and, since machines are shared, of processor time a core.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import noise

STDDEV = 1.7
ROUNDS = 9
DATA = noise.key_data(0)
MLP = [(784, 1024), (1024,), *[(1024, 1024), (1024,)] * 2, (1024, 10), (10,)]


def sixty_leaves():
    """Return 60 sizes, log-uniform from 100 to 100,000."""
    draw = np.random.default_rng(0).uniform(np.log(100), np.log(100_000), 60)
    return [(int(size),) for size in np.exp(draw)]


MODELS = {
    "one vector of 3,000,000": [(3_000_000,)],
    "one vector of 3,000,001": [(3_000_001,)],
    "one vector of 30,000,000": [(30_000_000,)],
    "MLP 784-1024-1024-1024-10": MLP,
    "convolution 3x3x512x512": [(3, 3, 512, 512)],
    "convolution 512x512x3x3": [(512, 512, 3, 3)],
    "60 leaves": sixty_leaves(),
}


def bits(step, sums):
    """Add random bits to each leaf."""
    return with_jax(step, sums, jax.random.bits)


def normal(step, sums):
    """Add what users of `jax.random` draw."""
    return with_jax(step, sums, jax.random.normal)


def ours(step, sums):
    """Add our noise."""
    drawn = noise.gaussian_noise(DATA, step, sums, STDDEV)
    return jax.tree.map(jnp.add, sums, drawn)


def with_jax(step, sums, draw):
    """Add to each leaf what `draw` makes of a key of its own."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(sums))
    return [
        leaf + STDDEV * draw(key, leaf.shape)
        for key, leaf in zip(keys, sums, strict=True)
    ]


def timed(fn, *args):
    """Return wall time and processor time a core of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn(*args))
    cores = len(os.sched_getaffinity(0))
    return time.perf_counter() - wall, (time.process_time() - cpu) / cores


def main():
    """Print one row a model: nanoseconds a value (of a core), seconds to compile."""
    functions = [bits, normal, ours]
    print(
        f"{'wall (core) ns a value':28}"
        + "".join(f"{f.__name__:>22}" for f in functions)
    )
    for name, shapes in MODELS.items():
        sums = [jnp.ones(shape) for shape in shapes]
        size = sum(leaf.size for leaf in sums)
        compiled, seconds = [], []
        for function in functions:
            start = time.perf_counter()
            compiled.append(jax.jit(function).lower(0, sums).compile())
            seconds.append(time.perf_counter() - start)
            jax.block_until_ready(compiled[-1](0, sums))
        rounds = [[timed(fn, step, sums) for fn in compiled] for step in range(ROUNDS)]
        row = f"{name:28}"
        for i in range(len(functions)):
            wall, cpu = (
                statistics.median(turn[i][j] for turn in rounds) / size * 1e9
                for j in range(2)
            )
            row += f"{wall:7.2f} ({cpu:5.2f}) {seconds[i]:4.1f} s"
        print(row, flush=True)


if __name__ == "__main__":
    main()
