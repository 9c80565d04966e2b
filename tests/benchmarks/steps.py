"""The second table: a whole private train step, against a whole plain one.

Both end in SGD with momentum and keep parameters and optimizer state in place. The
private one clips, draws the noise of `dpjax.dpsgd`, and counts the step.
"""

import statistics
from collections.abc import Callable
from typing import Any

import contestants
import jax
import jax.numpy as jnp
import optax
import programs
import timing
import workloads

import dpjax

LEARNING_RATE, MOMENTUM = 1e-3, 0.9


def measure(name: str, options: programs.Options) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        name: A key of `workloads.SPECS`.
        options: How to measure.

    Returns:
        Times and ratios; "plain_ns_per_param" says how much work a parameter has in the
        plain step, "noise_ns_per_value" what one more `gaussian_noise` takes inside of
        a program. Or
        `{"workload", "title", "batch", "dropped": why}`.
    """
    spec = workloads.SPECS[name]
    sizes = spec.chosen(options.quick)
    work = workloads.build(spec.model, sizes)
    row = {"workload": name, "title": spec.title, "batch": sizes["batch"]}
    args = (dpjax.noise.key_data(0), work.params)
    once, twice = (programs.compiled(fn, args, 1) for fn in (_draw, _draw_twice))
    _, plain_call = _step(*_plain_step(work))
    private, private_call = _step(*_private_step(work))
    if private.temp_bytes > options.max_bytes:
        return {**row, "dropped": f"temporaries: {private.temp_bytes / 1e9:.1f} GB"}
    calls = {
        "plain": plain_call,
        "private": private_call,
        "once": programs.repeated(once.run, args),
        "twice": programs.repeated(twice.run, args),
    }
    for call in calls.values():
        call()
    times = timing.side_by_side(calls, options.rounds, turn=options.turn)
    return row | {"params": work.num_params} | _numbers(times, work.num_params)


def _numbers(times: dict[str, list[float]], num_params: int) -> dict[str, float]:
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        "plain_ms": 1e3 * medians["plain"],
        "private_ms": 1e3 * medians["private"],
        "ratio": timing.median_ratio(times["private"], times["plain"]),
        "plain_ns_per_param": 1e9 * medians["plain"] / num_params,
        "noise_ns_per_value": 1e9 * (medians["twice"] - medians["once"]) / num_params,
    }


def _draw(key: jax.Array, params: Any, step: int = 0) -> Any:
    return dpjax.noise.gaussian_noise(key, step, params, 1.0)


def _draw_twice(key: jax.Array, params: Any) -> Any:
    return _draw(key, params), _draw(key, params, 1)


def _plain_step(work: workloads.Workload) -> tuple[Any, Any]:
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)

    def step(params: Any, state: Any, *batch: jax.Array) -> Any:
        grads = jax.grad(work.loss)(params, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step, (work.params, optimizer.init(work.params), *work.batch)


def _private_step(work: workloads.Workload) -> tuple[Any, Any]:
    clip_norm = contestants.CLIP_NORM
    optimizer = dpjax.dpsgd(LEARNING_RATE, clip_norm, 1.0, 0, MOMENTUM)
    clipped_grad = dpjax.clipped_grad(work.loss, clip_norm)

    def step(params: Any, state: Any, *batch: jax.Array) -> Any:
        grads = clipped_grad(params, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step, (work.params, optimizer.init(work.params), *work.batch)


def _step(fn: Callable[..., Any], args: Any) -> tuple[programs.Program, Any]:
    """Return the program of a step and a call that takes one step after the other."""
    program = programs.compiled(fn, args, 1, donate=(0, 1))
    # Copies, since what a step is given is overwritten.
    params, state, *batch = args
    carry = jax.tree.map(jnp.copy, (params, state))
    return program, programs.carried(program.run, carry, batch)
