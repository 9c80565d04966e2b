"""How memory and step time go over a long run. Run me as a script: I print JSON.

A small logistic model, with metrics, evaluations and checkpoints as the flags say. The
first tenth is taken for warming up. Resident memory is that of the whole process.
"""

import json
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from dpjax import mechanism, training

WINDOWS = 10
_SIZE, _BATCH, _FEATURES = 1000, 20, 8


class Watch:
    """Takes the time and the memory at every line of metrics."""

    def __init__(self) -> None:
        """Begin without a mark."""
        self.marks: list[tuple[float, float]] = []
        self.traces = 0
        self.compiled_at: list[int] = []
        jax.monitoring.register_event_duration_secs_listener(self._compiled)

    def evaluate(self, params: Any) -> dict[str, Any]:
        """Note the time and the memory."""
        self.marks.append((time.monotonic(), resident_megabytes()))
        return {"norm": jnp.linalg.norm(params["w"])}

    def loss(self, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        """Return the loss of one example; count that it was traced."""
        self.traces += 1
        logits = x @ params["w"] + params["b"]
        return optax.sigmoid_binary_cross_entropy(logits, y)

    def _compiled(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.compiled_at.append(len(self.marks))


def resident_megabytes() -> float:
    """Return the memory that this process holds."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def measure(
    steps: int, log_every: int, checkpoint_every: int, folder: str | None
) -> dict[str, Any]:
    """Train; return the medians of each window of the run, and what was counted."""
    rng, watch = np.random.default_rng(0), Watch()
    x = rng.normal(size=(_SIZE, _FEATURES)).astype(np.float32)
    plan = mechanism.DPSGD(
        num_examples=_SIZE,
        expected_batch_size=_BATCH,
        num_steps=steps,
        l2_norm_clip=1.0,
        noise_multiplier=2.0,
    )
    training.fit(
        plan,
        watch.loss,
        {"w": jnp.zeros(_FEATURES), "b": jnp.zeros(())},
        (x, (x[:, 0] > 0).astype(np.int32)),
        optax.adam(1e-3),
        key=0,
        delta=1e-5,
        run_dir=folder and f"{folder}/run",
        evaluate=watch.evaluate,
        logging=training.Logging(every=log_every, progress=False),
        checkpointing=training.Checkpointing(every=checkpoint_every),
    )
    return summary(watch, log_every) | {"steps": steps}


def summary(watch: Watch, log_every: int) -> dict[str, Any]:
    """Return medians by window, and what came after the warm-up."""
    times, memory = np.array(watch.marks).T
    pace = np.diff(times) / log_every * 1e6
    warm = len(memory) // WINDOWS
    return {
        "microseconds_a_step": [
            round(statistics.median(part)) for part in np.array_split(pace, WINDOWS)
        ],
        "megabytes": [
            round(float(part.max()), 1) for part in np.array_split(memory, WINDOWS)
        ],
        "growth_megabytes": round(float(memory[-1] - memory[warm]), 2),
        "traces": watch.traces,
        "compilations": len(watch.compiled_at),
        "compilations_after_warming": sum(n > warm for n in watch.compiled_at),
        "lines": len(memory),
    }


def main(argv: list[str]) -> None:
    """Print what was measured."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax tells of every checkpoint
    value = {name: flags.FLAGS[name].value for name in _FLAGS}
    with tempfile.TemporaryDirectory() as folder:
        json.dump(measure(*value.values(), folder), sys.stdout)
    print()


_FLAGS = {"steps": 100_000, "log_every": 100, "checkpoint_every": 1000}

if __name__ == "__main__":
    for name, default in _FLAGS.items():
        flags.DEFINE_integer(name, default, f"{name}.".capitalize(), lower_bound=1)
    app.run(main)
