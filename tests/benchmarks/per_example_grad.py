"""Row S16: what jit is worth to per-example gradients. Run me as a script.

Both are timed side by side in one process, on the tutorial's batch of two TD(0)
transitions and on a larger one; the ratio is what counts, not the milliseconds.
"""

import statistics
import time

import jax
import jax.numpy as jnp

import dpjax


def td_loss(theta, s_tm1, r_t, s_t):
    """Return the squared TD(0) error of one transition."""
    target = jax.lax.stop_gradient(r_t + jnp.vdot(theta, s_t))
    return (target - jnp.vdot(theta, s_tm1)) ** 2


def median_seconds(fn, *args, repeats=30):
    """Return the median time of a call, after one that compiles."""
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    """Print one row a batch size."""
    plain = jax.vmap(jax.grad(td_loss), in_axes=(None, 0, 0, 0))
    jitted = dpjax.per_example_grad(td_loss)
    theta = jnp.array([0.1, -0.1, 0.0])
    print(f"{'batch':>6} {'vmap':>12} {'jit(vmap)':>12} {'ratio':>7}")
    for batch_size in (2, 1024):
        batch = (
            jnp.tile(jnp.array([1.0, 2.0, -1.0]), (batch_size, 1)),
            jnp.ones(batch_size),
            jnp.tile(jnp.array([2.0, 1.0, 0.0]), (batch_size, 1)),
        )
        slow = median_seconds(plain, theta, *batch)
        fast = median_seconds(jitted, theta, *batch)
        print(
            f"{batch_size:6d} {slow * 1e3:9.3f} ms {fast * 1e3:9.3f} ms "
            f"{slow / fast:7.1f}"
        )


if __name__ == "__main__":
    main()
