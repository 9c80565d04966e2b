"""Kills a small run at random moments, again and again; says what came of it.

Run as `killed_runs.py FOLDER SEED KILLS`. The interpreter with all that is imported is
forked for each attempt, which saves most of the time of starting one.
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import mechanism, training
from dpjax.training import fingerprint, storage

STEPS = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.int32)
PLAN = mechanism.DPSGD(
    num_examples=60,
    expected_batch_size=20,
    num_steps=STEPS,
    l2_norm_clip=0.7,
    noise_multiplier=1.0,
)


def loss_fn(params, x, y):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y)


def train(path):
    """Begin or go on; what each step releases is told to a file before it is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def evaluate(params):
        with (path.parent / "released").open("a") as file:
            file.write(fingerprint.tree_digest(params) + "\n")
        return {"first": params["w"][0]}

    training.fit(
        PLAN,
        loss_fn,
        {"w": jnp.array([0.1, 0.2, -0.1]), "b": jnp.zeros(())},
        (X, Y),
        optax.adam(0.1),
        key=7,
        delta=1e-5,
        run_dir=path,
        resume=(path / "config.json").exists(),
        evaluate=evaluate,
        logging=training.Logging(every=1, progress=False),
        checkpointing=training.Checkpointing(every=2),
    )


def forked(path):
    """Start an attempt; return its process."""
    process = os.fork()
    if process == 0:
        try:
            jax.config.update("jax_platforms", "cpu")
            train(path)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process


def has_ended(process):
    """Tell whether the process has ended; it must then have ended well."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found and status:
        raise RuntimeError(f"an attempt ended with status {status}")
    return bool(found)


def unfinished(path):
    folder = path / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return {name for name in names if storage.UNFINISHED in name}


def wait(process, condition):
    """Wait until the condition holds; tell whether the process is still there."""
    while not condition():
        if has_ended(process):
            return False
        time.sleep(0.0005)
    return True


def kill_once(path, rng, seconds):
    """Run an attempt to a random moment; return what was hit, or None if it ended.

    Half of the moments are drawn from the time that a whole run takes, the others from
    the time that a checkpoint takes, once one is being written.
    """
    process, left = forked(path), unfinished(path)
    delay = rng.uniform(0, seconds)
    if rng.random() < 0.5:
        if not wait(process, lambda: unfinished(path) - left):
            return None
        delay = rng.uniform(0, 0.05)
    until = time.monotonic() + delay
    if not wait(process, lambda: time.monotonic() > until):
        return None
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    if (path / "summary.json").exists():
        return "written to the end"
    return "in a checkpoint" if unfinished(path) - left else "elsewhere"


def run(folder, seed, kills):
    rng = np.random.default_rng(seed)
    whole = folder / "uninterrupted" / "run"
    for path in (whole, folder / "compiled before" / "run"):
        forked_at = time.monotonic()
        wait(forked(path), lambda: False)
    seconds = time.monotonic() - forked_at
    hits, attempt = [], 0
    while len(hits) < kills:
        hit = kill_once(folder / str(attempt) / "run", rng, seconds)
        if hit is not None:
            hits.append(hit)
        attempt += hit is None  # it came to its end: the next one begins anew
    wait(forked(folder / str(attempt) / "run"), lambda: False)
    return {"seconds": seconds, "hits": hits, "runs": attempt + 1}


if __name__ == "__main__":
    found = run(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(found))
