"""The largest microbatch whose gradient fits a budget, by XLA's own account."""

import itertools
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dpjax import _check

_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUP = pathlib.Path("/sys/fs/cgroup")


class MemoryBudgetError(ValueError):
    """Not even one example at a time fits the budget."""


class FittingSize(NamedTuple):
    """A microbatch size and what it takes.

    Attributes:
      size: examples whose gradients are in memory at a time.
      bytes: what the compiled function takes with it: temporaries, arguments, results.
      budget: what it may take, in bytes.
      next_size: the next larger size that was compiled and does not fit, or None where
        the whole batch fits.
      next_bytes: what that takes, or None.
    """

    size: int
    bytes: int
    budget: int
    next_size: int | None
    next_bytes: int | None


def largest_microbatch_size(
    make: Callable[[int], Callable[..., Any]],
    *arguments: Any,
    batch_size: int,
    memory_budget: int | None = None,
) -> FittingSize:
    """Return the largest microbatch size with which a gradient fits a budget.

    The function is compiled for a few sizes, not run, and XLA says what it takes. Only
    sizes are tried that cut the batch into pieces with the least padding: the least one
    for each number of pieces. Gradients do not depend on the size, but for the order of
    a sum.

    Args:
      make: `make(size)` returns a function of `arguments` with that microbatch size.
      *arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.
      batch_size: rows of the batch among them.
      memory_budget: bytes on one device; None is `available_bytes()`. What runs beside
        the function (the noise and the update, rows that are on their way) is not in
        it.

    Raises:
      MemoryBudgetError: size 1 takes more; the message says how much.
      ValueError, TypeError: sizes that are no positive integers.

    Example:
      >>> import jax.numpy as jnp
      >>> import dpjax
      >>> def loss(w, x):
      ...     return jnp.sum(jnp.tanh(x @ w) ** 2)
      >>> def make(size):
      ...     return dpjax.clipped_grad(
      ...         loss, 1.0, microbatch_size=size, engine="vmap")
      >>> w, x = jnp.ones((64, 64)), jnp.ones((32, 64))
      >>> found = largest_microbatch_size(
      ...     make, w, x, batch_size=32, memory_budget=500_000)
      >>> found.size < 32 and found.bytes <= 500_000 < found.next_bytes
      True
    """
    batch = _check.integer("batch_size", batch_size, minimum=1)
    if memory_budget is None:
        budget = available_bytes()
    else:
        budget = _check.integer("memory_budget", memory_budget, minimum=1)

    def measure(size: int) -> int:
        return compiled_bytes(make(size), *arguments)

    return _largest(sizes(batch), measure, budget)


def sizes(batch_size: int) -> list[int]:
    """Return, ascending, the least size for each number of pieces of a batch.

    >>> sizes(12)
    [1, 2, 3, 4, 6, 12]
    """
    return sorted({math.ceil(batch_size / k) for k in range(1, batch_size + 1)})


def compiled_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the bytes that a compiled function takes on a device.

    Temporaries, arguments and results, by `memory_analysis` of the program that XLA
    makes of it.

    Args:
      function: what JAX can compile.
      *arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      MemoryBudgetError: the compiler of this device does not say.
    """
    program: Any = jax.jit(function).lower(*arguments).compile().memory_analysis()
    if program is None:
        raise MemoryBudgetError(
            "Expected a device whose compiler says what a program takes, got "
            f"{jax.default_backend()!r}."
        )
    return int(
        program.temp_size_in_bytes
        + program.argument_size_in_bytes
        + program.output_size_in_bytes
        - program.alias_size_in_bytes
    )


def available_bytes() -> int:
    """Return the bytes that are free on the first local device.

    Where a device does not say, its memory is taken to be the host's: what the
    operating system calls available, or what is left of this process's control group
    where that is less, shared by all local devices.

    Raises:
      MemoryBudgetError: the operating system does not say either.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    free = [left for left in (_system_bytes(), _group_bytes()) if left is not None]
    if not free:
        raise MemoryBudgetError(
            "Expected memory_budget where neither the device nor the operating system "
            "says what is free, got memory_budget=None."
        )
    return min(free) // jax.local_device_count()


def _largest(
    candidates: list[int], measure: Callable[[int], int], budget: int
) -> FittingSize:
    """Return the largest candidate that fits; bytes are taken to grow with the size.

    What a size takes is close to a line, on which the next one to try is read off; now
    and then the bracket is halved instead, in case it is not.
    """
    low, high = 0, len(candidates) - 1
    most = measure(candidates[high])
    if most <= budget:
        return FittingSize(candidates[high], most, budget, None, None)
    least = measure(candidates[low]) if high else most
    if least > budget:
        raise MemoryBudgetError(
            f"Expected a budget of at least {least} bytes, which one example at a time "
            f"takes, got memory_budget={budget}."
        )
    for trial in itertools.count():
        if high - low == 1:
            break
        middle = _between(candidates, low, high, (budget - least) / (most - least))
        if trial % 3 == 2:
            middle = (low + high) // 2
        taken = measure(candidates[middle])
        if taken <= budget:
            low, least = middle, taken
        else:
            high, most = middle, taken
    return FittingSize(candidates[low], least, budget, candidates[high], most)


def _between(candidates: list[int], low: int, high: int, share: float) -> int:
    """Return the largest candidate within a share of the way, the ends left out."""
    aim = candidates[low] + share * (candidates[high] - candidates[low])
    below = [i for i in range(low + 1, high) if candidates[i] <= aim]
    return below[-1] if below else low + 1


def _system_bytes() -> int | None:
    """Return what the operating system calls available, or None."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _group_bytes() -> int | None:
    """Return what is left of this process's control group, or None without a limit."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return limit - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
