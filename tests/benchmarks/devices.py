"""Time of one step of fit on more and more devices and processes.

Host devices and processes of one machine share its cores, so that the time can fall
until these are used up and no further. What a device has to do and to hold is counted
beside it, by XLA's own account of the compiled programs, and falls with each device.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time

import jax
import machine
import numpy as np
import optax
from absl import app, flags

from dpjax import mechanism, noise
from dpjax.training import feeding, plan, request, spreading
from dpjax.training.checkpoints import Checkpointing
from dpjax.training.losses import Loss
from dpjax.training.placement import Placement
from dpjax.training.step import make_gradient

DEVICES = (1, 2, 4, 8)
PROCESSES = (2, 4)
BATCH, WIDTH, FEATURES, CLASSES = 512, 512, 784, 16

_STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed.", lower_bound=1)
_SHARD = flags.DEFINE_boolean("shard_params", False, "Whether parameters are split.")
_WORKER = flags.DEFINE_string("worker", None, "PORT,PROCESSES,INDEX of a worker.")

COLUMNS = {
    "processes": "{}",
    "devices each": "{}",
    "ms a step": "{:.1f}",
    "rows a device": "{}",
    "MFLOP a device, gradient": "{:.0f}",
    "normals a device": "{}",
    "state MB a device": "{:.2f}",
}


def loss(params, x, y):
    """Return the loss of one example."""
    for weight in params["hidden"]:
        x = jax.nn.relu(x @ weight)
    logits = x @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def make_request():
    """Return a run of Adam on a network with three hidden layers."""
    random = np.random.default_rng(0)
    sizes = [(FEATURES, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)]
    *hidden, out = [
        (random.normal(size=size) / np.sqrt(size[0])).astype(np.float32)
        for size in sizes
    ]
    x = random.normal(size=(2000, FEATURES)).astype(np.float32)
    y = random.integers(0, CLASSES, 2000).astype(np.int32)
    run = mechanism.DPSGD(
        num_examples=2000,
        expected_batch_size=BATCH,
        num_steps=_STEPS.value + 4,
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
        static_batch_size=640,
    )
    return request.Request(
        mechanism=run,
        loss=Loss(loss),
        params={"hidden": hidden, "out": out},
        data=(x, y),
        optimizer=optax.adam(1e-3),
        key=0,
        run_dir=None,
        resume=False,
        delta=None,
        max_epsilon=None,
        evaluate=None,
        ema_decay=None,
        logging=request.Logging(progress=False),
        checkpointing=Checkpointing(),
        settings={},
        placement=Placement(shard_params=_SHARD.value),
    )


def measure():
    """Return one row of the table, as JSON."""
    run = plan.make_plan(make_request())
    state = spreading.spread(run.layout, run.state)
    draws = run.request.mechanism.batches(run.key_words)
    read = run.source.batches(feeding.own_rows(run.layout, draws, run.rows))
    times = []
    for chunks in read:
        began = time.perf_counter()
        placed = feeding.assembled(run.layout, chunks, run.rows)
        state, _ = jax.block_until_ready(run.step(state, run.key_words, placed))
        times.append(time.perf_counter() - began)
    held = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)
    )
    return {
        "processes": jax.process_count(),
        "devices each": jax.local_device_count(),
        "ms a step": statistics.median(times[4:]) * 1e3,
        "rows a device": run.rows // run.layout.num_devices,
        "MFLOP a device, gradient": gradient_flops(run, state, placed[0]) / 1e6,
        "normals a device": drawn_normals(run, state),
        "state MB a device": held / 1e6,
    }


def gradient_flops(run, state, chunk):
    """Return the operations of one device for the gradient of a chunk."""
    gradient = make_gradient(run.request.mechanism, run.request.loss, run.layout)
    words = np.asarray(run.key_words)
    program = gradient.lower(state, chunk.rows, chunk.mask, words, np.uint32(0))
    return program.compile().cost_analysis()["flops"]


def drawn_normals(run, state):
    """Return how many normal values one device draws in a step: each takes one root."""

    def draw(words):
        with run.layout.context():
            values = noise.gaussian_noise(words, 0, state.params, 1.0)
        return spreading.keep_split(run.layout, values)

    program = jax.jit(draw).lower(np.asarray(run.key_words)).compile()
    return int(program.cost_analysis()["transcendentals"])


def connect(port, num, index):
    """Join the other processes of a run."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(num), int(index))


def start(num, devices):
    """Measure in processes of their own; return what the first found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags_ = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, f"--steps={_STEPS.value}"]
    command.append(f"--shard_params={_SHARD.value}")
    workers = [
        subprocess.Popen(
            [*command, f"--worker={port},{num},{index}"],
            env=os.environ | {"XLA_FLAGS": flags_},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(num)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("Expected all workers to end well, got an error above.")
    return json.loads(outputs[0].splitlines()[-1])


def main(argv):
    """Print the table, or measure as one of the workers."""
    del argv
    if _WORKER.value:
        port, num, index = _WORKER.value.split(",")
        if int(num) > 1:
            connect(port, num, index)
        print(json.dumps(measure()))
        return
    print("|", " | ".join(COLUMNS), "|")
    print("|" + " ---: |" * len(COLUMNS))
    for num, devices in [(1, n) for n in DEVICES] + [(n, 1) for n in PROCESSES]:
        row = start(num, devices)
        cells = [text.format(row[name]) for name, text in COLUMNS.items()]
        print("|", " | ".join(cells), "|", flush=True)
    cores = len(os.sched_getaffinity(0))
    print(f"\nAll on {machine.cpu_name()}, {cores} cores.")


if __name__ == "__main__":
    app.run(main)
