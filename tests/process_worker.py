"""One process of a run of several; `started` starts them all and waits.

Each process writes what came of it into a folder that they share for this alone:
`<index>.json`, and the numbers as `<index>.npz`.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import spread_runs

from dpjax.training import sources, spreading

PORT, NUM, INDEX = "DPJAX_TEST_PORT", "DPJAX_TEST_PROCESSES", "DPJAX_TEST_INDEX"
LIMIT_SECONDS = 240


def started(num, folder, *arguments, devices=1):
    """Start processes of this script; return those that have ended, in order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    shared = {PORT: str(port), NUM: str(num), "XLA_FLAGS": flags}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), *arguments],
            env=os.environ | shared | {INDEX: str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(num)
    ]
    try:
        return [
            (p.communicate(timeout=LIMIT_SECONDS)[0], p.returncode) for p in processes
        ]
    finally:
        for process in processes:
            process.kill()


def connect():
    """Join the processes that were started together."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{os.environ[PORT]}",
        int(os.environ[NUM]),
        int(os.environ[INDEX]),
        heartbeat_timeout_seconds=20,
    )


def counted_rows():
    """Return a list to which every index is added that is read from now on."""
    read, rows = [], sources.ArraySource.rows

    def counting(self, indices):
        read.extend(np.asarray(indices).tolist())
        return rows(self, indices)

    sources.ArraySource.rows = counting
    return read


def interrupt(params):
    """Evaluate, and in the last process ask for the end of the run."""
    if jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return {"norm": optax.tree.norm(params)}


def other_data(data):
    """Return the data, in the last process with one number changed."""
    x, y = (np.copy(array) for array in data)
    x[7, 2] += jax.process_index() == jax.process_count() - 1
    return x, y


def options(task, folder):
    """Return what a task changes of a run."""
    in_folder = {"run_dir": folder / f"run-{jax.process_index()}"}
    return {
        "run": {},
        "fresh key": in_folder | {"key": None},
        "interrupted": in_folder | {"evaluate": interrupt},
        "resumed": in_folder | {"resume": True},
        "no folder to resume": in_folder | {"resume": True},
        "other data": {"data": other_data((spread_runs.X, spread_runs.Y))},
    }[task]


def main(folder, task, name, kind):
    """Do one run, and write down what came of it."""
    folder = pathlib.Path(folder)
    report = folder / f"{jax.process_index()}.json"
    read, placement = counted_rows(), spread_runs.KINDS[kind]
    try:
        found = spread_runs.run(name, placement, **options(task, folder))
    except BaseException as error:
        report.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise
    arrays = (found.params, found.average, found.opt_state)
    layout = placement.layout(spread_runs.params())
    if placement.shard_params:
        arrays = spreading.on_host(layout, arrays)
    numbers = {
        # NumPy's files do not know bfloat16.
        name: array.astype(np.float32) if array.dtype == "bfloat16" else array
        for name, array in spread_runs.numbers(found, arrays).items()
    }
    np.savez(folder / f"{jax.process_index()}.npz", **numbers)
    content = {
        "exact": spread_runs.exact(found),
        "read": sorted(read),
        "has_folder": found.run_dir is not None,
        "devices": len(jax.devices()),
    }
    report.write_text(json.dumps(content))


if __name__ == "__main__":
    connect()
    main(*sys.argv[1:])
