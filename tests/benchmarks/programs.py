"""Compile a function once and for all: its time, its memory, and a call to time."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import counts
import jax


@dataclasses.dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        rounds: Rounds of a side-by-side timing.
        quick: Tiny sizes and short turns: a trial of the command, no measurement.
        max_bytes: Temporaries above which a contestant is dropped.
        max_seconds: Time of one call above which a contestant is dropped.
    """

    rounds: int
    quick: bool
    max_bytes: float = 12e9
    max_seconds: float = 60.0

    @property
    def turn(self) -> float:
        """Return the seconds that one turn of a short call takes about."""
        return 0.0 if self.quick else 0.2

    @property
    def compilations(self) -> int:
        """Return how often a program is compiled for the median of that time."""
        return 1 if self.quick else 3


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function.

    Attributes:
        run: The executable.
        compile_seconds: Median time to trace, lower and compile, caches cleared.
        temp_bytes: Peak temporaries by XLA's memory analysis.
        operations: Arithmetic operations, as `counts` has them.
        bytes_moved: Bytes that its kernels move, as `counts` has them.
    """

    run: Callable[..., Any]
    compile_seconds: float
    temp_bytes: int
    operations: int
    bytes_moved: int


def compiled(
    fn: Callable[..., Any],
    args: Sequence[Any],
    compilations: int,
    donate: Sequence[int] = (),
) -> Program:
    """Return `fn` compiled for arguments like `args`."""
    times = []
    for _ in range(compilations):
        jax.clear_caches()
        start = time.perf_counter()
        traced = jax.jit(fn, donate_argnums=donate).trace(*args)
        run = traced.lower().compile()
        times.append(time.perf_counter() - start)
    jaxpr = traced.jaxpr.jaxpr
    return Program(
        run,
        statistics.median(times),
        run.memory_analysis().temp_size_in_bytes,
        counts.operations(jaxpr),
        counts.bytes_moved(jaxpr),
    )


def repeated(run: Callable[..., Any], args: Sequence[Any]) -> Callable[[], Any]:
    """Return a call that runs to its end on the same arguments each time."""
    return lambda: jax.block_until_ready(run(*args))


def carried(
    run: Callable[..., Any], carry: Sequence[Any], args: Sequence[Any]
) -> Callable[[], Any]:
    """Return a call that goes on from what the last call returned."""

    def call() -> Any:
        nonlocal carry
        carry = jax.block_until_ready(run(*carry, *args))
        return carry

    return call
