"""The first table: clipped gradients, against the plain gradient of the same batch."""

import statistics
from collections.abc import Sequence
from typing import Any

import contestants
import programs
import timing
import workloads


def measure(
    name: str, names: Sequence[str], options: programs.Options
) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        name: A key of `workloads.SPECS`.
        names: Keys of `contestants.CONTESTANTS`; plain is always among those measured.
        options: How to measure.

    Returns:
        Sizes, and under "contestants" for each of them either what was measured or
        `{"dropped": why}`.
    """
    spec = workloads.SPECS[name]
    sizes = spec.chosen(options.quick)
    work = workloads.build(spec.model, sizes)
    ready, entries = {}, {}
    for contestant in dict.fromkeys(["plain", *names]):
        found = _prepare(contestant, work, options)
        if isinstance(found, str):
            entries[contestant] = {"dropped": found}
        else:
            ready[contestant] = found
    calls = {key: call for key, (_, call) in ready.items()}
    times = timing.side_by_side(calls, options.rounds, turn=options.turn)
    base = ready["plain"][0]
    for key, (program, _) in ready.items():
        entries[key] = _entry(program, times[key], base, times["plain"])
    return {
        "workload": name,
        "title": spec.title,
        "model": spec.model,
        "sizes": sizes,
        "params": work.num_params,
        "batch": sizes["batch"],
        "contestants": entries,
    }


def _prepare(
    contestant: str, work: workloads.Workload, options: programs.Options
) -> Any:
    """Return the program and a call of it, or a line that says why there is none."""
    if why := contestants.missing(contestant):
        return why
    fn = contestants.CONTESTANTS[contestant](work.loss)
    args = (work.params, *work.batch)
    own = contestant in ("plain", "auto", "bookkeeping")
    program = programs.compiled(fn, args, options.compilations if own else 1)
    if program.temp_bytes > options.max_bytes:
        needed, limit = program.temp_bytes / 1e9, options.max_bytes / 1e9
        return f"temporaries would take {needed:.1f} GB, more than {limit:.0f} GB"
    call = programs.repeated(program.run, args)
    once = timing.seconds(call)
    if once > options.max_seconds:
        return f"one call took {once:.0f} s, more than {options.max_seconds:.0f} s"
    return program, call


def _entry(
    program: programs.Program,
    times: list[float],
    base: programs.Program,
    base_times: list[float],
) -> dict[str, Any]:
    return {
        "round_ms": [1e3 * seconds for seconds in times],
        "ms": 1e3 * statistics.median(times),
        "ratio": timing.median_ratio(times, base_times),
        "temp_bytes": program.temp_bytes,
        "temp_ratio": program.temp_bytes / max(base.temp_bytes, 1),
        "compile_seconds": program.compile_seconds,
        "compile_ratio": program.compile_seconds / base.compile_seconds,
        "operations": program.operations,
        "operations_ratio": program.operations / base.operations,
        "bytes_moved": program.bytes_moved,
        "bytes_ratio": program.bytes_moved / base.bytes_moved,
    }
