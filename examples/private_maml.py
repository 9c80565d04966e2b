"""Learn to learn from private tasks: MAML, private for each task.

A task is a sine wave, of amplitude in [0.1, 5] and phase in [0, pi], that is seen at
ten points: the support set. MAML looks for weights from which a few steps of gradient
descent on a support set fit the whole wave: it takes the loss on ten further points,
the query set, after those steps, and differentiates through them.

The private unit is a TASK, say all that one person measured: one example is the support
and query set of one task. The inner steps stay within it, so that its meta-gradient
depends on no other task: it is clipped and noised. Data sets are neighbours if one has
a task more. To learn a new task from the private weights touches no old one, and costs
nothing.

References:
    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017, arXiv 1703.03400,
        algorithm 2 and section 5.1: these tasks.
    Li, Khodak, Caldas, Talwalkar, "Differentially Private Meta-Learning", ICLR 2020,
        arXiv 1909.05830: the task as the unit.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import private_learners
from jax import Array
from private_learners import Settings

import dpjax

POINTS, WIDTH = 10, 40
INNER_STEPS, INNER_RATE = 3, 0.03
SHOWN_STEPS = (0, 1, INNER_STEPS, 10)
DEFAULTS = Settings(epsilon=4.0, delta=1e-5, steps=150)
Params = list[dict[str, Array]]
Tasks = tuple[Array, Array, Array, Array]


@functools.partial(jax.jit, static_argnums=1)
def tasks(key: Array, count: int) -> Tasks:
    """Draw tasks: support x and y, query x and y, each `(count, POINTS)`."""
    keys = jax.random.split(key, 3)
    amplitude = jax.random.uniform(keys[0], (count, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(keys[1], (count, 1), maxval=jnp.pi)
    x = jax.random.uniform(keys[2], (count, 2 * POINTS), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return x[:, :POINTS], y[:, :POINTS], x[:, POINTS:], y[:, POINTS:]


def initial(key: Array) -> Params:
    """Return the weights of two hidden layers of tanh units."""
    sizes = ((1, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    return [
        {
            "weights": jax.random.normal(part, shape) * (gain / shape[0]) ** 0.5,
            "bias": jnp.zeros(shape[1]),
        }
        for part, shape, gain in zip(
            jax.random.split(key, 3), sizes, (2.0, 2.0, 1.0), strict=True
        )
    ]


def squared_error(params: Params, x: Array, y: Array) -> Array:
    """Return the mean squared error of the network at points `(points,)`."""
    *hidden, last = params
    units = x[:, None]
    for layer in hidden:
        units = jnp.tanh(units @ layer["weights"] + layer["bias"])
    found = units @ last["weights"] + last["bias"]
    return jnp.mean((found[:, 0] - y) ** 2)


def adapt(params: Params, x: Array, y: Array, steps: int) -> Params:
    """Return the weights after steps of gradient descent on a support set."""

    def step(params: Params, _: None) -> tuple[Params, None]:
        grads = jax.grad(squared_error)(params, x, y)
        return jax.tree.map(lambda p, g: p - INNER_RATE * g, params, grads), None

    return jax.lax.scan(step, params, length=steps)[0]


def make_loss(steps: int) -> Callable[..., Array]:
    """Return the loss of ONE task: that on its query set after `steps` inner steps.

    Without inner steps it is ordinary training on all tasks together.
    """

    def loss(params: Params, *task: Array) -> Array:
        support_x, support_y, query_x, query_y = task
        return squared_error(
            adapt(params, support_x, support_y, steps), query_x, query_y
        )

    return loss


@jax.jit
def query_losses(params: Params, held_out: Tasks) -> list[Array]:
    """Return the mean loss on query sets of new tasks, after each of `SHOWN_STEPS`."""

    def losses(*task: Array) -> list[Array]:
        return [make_loss(steps)(params, *task) for steps in SHOWN_STEPS]

    return [each.mean() for each in jax.vmap(losses)(*held_out)]


def learn(
    settings: Settings, num_tasks: int = 20_000, num_held_out: int = 1000
) -> tuple[dpjax.DPSGD, dict[str, list[Array]]]:
    """Return the mechanism, and query losses on new tasks by how weights were learnt.

    Args:
        settings: What may be spent, in how many steps.
        num_tasks: Number of private tasks; a step takes a fortieth of them on average.
        num_held_out: Number of new tasks, which nothing is learnt from.
    """
    private_tasks = tasks(settings.key("tasks"), num_tasks)
    held_out = tasks(settings.key("held out"), num_held_out)
    mechanism = settings.mechanism(num_tasks, num_tasks / 40, l2_norm_clip=1.0)
    plain = private_learners.without_privacy(mechanism)
    start = initial(settings.key("init"))
    found = {"untrained": query_losses(start, held_out)}
    for name, way, steps in (
        ("all tasks as one", plain, 0),
        ("MAML", plain, INNER_STEPS),
        ("private MAML", mechanism, INNER_STEPS),
    ):
        learnt = private_learners.train(
            way,
            make_loss(steps),
            start,
            private_tasks,
            optax.adam(0.01),
            settings.seed,
            microbatch_size=32,
        )
        found[name] = query_losses(learnt, held_out)
    return mechanism, found


def describe(settings: Settings) -> str:
    """Learn, and say how well and at what cost."""
    mechanism, found = learn(settings)
    columns = ["query loss after", *(f"{steps} steps" for steps in SHOWN_STEPS)]
    return "\n\n".join(
        [
            private_learners.table(columns, found),
            private_learners.guarantee(mechanism, settings.delta, "task"),
        ]
    )


if __name__ == "__main__":
    private_learners.start(describe, DEFAULTS)
