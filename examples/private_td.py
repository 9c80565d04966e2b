"""Learn the values of a random walk from private episodes, by TD(0).

A walk starts in the middle of 19 states and moves left or right, as likely. It ends
beyond either end, with reward -1 on the left and 1 on the right; the value of a state,
the mean reward from there on, is then (state - 10) / 10. TD(0) learns a table of values
from transitions: it moves the value of a state towards a target, the reward plus the
value of the next state. `td_learning` of `autodiff_tour.py` has its gradients.

The private unit is an EPISODE, say all that one person did: one example is all
transitions of one walk, padded to a fixed length and masked. Its updates are summed,
clipped as a whole, and noised. Data sets are neighbours if one has an episode more.

References:
    Sutton, Barto, "Reinforcement Learning", 2nd edition, 2018, equation 6.2 (TD(0)) and
        example 7.1 (this walk).
    Balle, Gomrokchi, Precup, "Differentially Private Policy Evaluation", ICML 2016: a
        trajectory as the unit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import private_learners
from jax import Array
from private_learners import Settings

import dpjax

STATES = 19
TRUE_VALUES = (np.arange(1, STATES + 1) - 10) / 10
MAX_LENGTH = 200  # longer walks are cut off: transitions are lost, none is changed
DEFAULTS = Settings(epsilon=1.0, delta=1e-5, steps=200)


@functools.partial(jax.jit, static_argnums=1)
def episodes(key: Array, count: int) -> Array:
    """Simulate walks: states, int8, `(count, MAX_LENGTH + 1)`; 0 and 20 are the ends.

    A walk that has ended stays where it is, which pads it.
    """
    moves = 2 * jax.random.bernoulli(key, shape=(MAX_LENGTH, count)).astype(int) - 1

    def step(state: Array, move: Array) -> tuple[Array, Array]:
        moved = jnp.where(is_live(state), state + move, state)
        return moved, moved

    first = jnp.full(count, (STATES + 1) // 2)
    rest = jax.lax.scan(step, first, moves)[1]
    return jnp.concatenate([first[None], rest]).T.astype(jnp.int8)


def is_live(state: Array) -> Array:
    """Tell whether a walk goes on from a state."""
    return (state > 0) & (state <= STATES)


def td_loss(values: Array, walk: Array) -> Array:
    """Return half the squared TD errors of ONE episode, summed, their targets fixed.

    Minus its gradient, along which an optimizer descends, is the update of TD(0): the
    sum of TD error times gradient of the value, which is the gradient of minus the
    half. A mean over the episode's own length would weigh short walks more, which end
    where they do for a reason, and learn other values than the true ones.

    Args:
        values: The value of each state, `(STATES,)`.
        walk: States of one episode, `(MAX_LENGTH + 1,)`.
    """
    before, after = walk[:-1].astype(int), walk[1:].astype(int)
    reward = jnp.where(after == 0, -1.0, jnp.where(after == STATES + 1, 1.0, 0.0))
    padded = jnp.pad(values, 1)  # nothing is earned from the ends on
    target = jax.lax.stop_gradient(reward + padded[after])
    errors = jnp.where(is_live(before), target - padded[before], 0.0)
    return 0.5 * jnp.sum(errors**2)


def rms_error(values: Array | np.ndarray) -> float:
    """Return the root mean square error of a table of values."""
    return float(np.sqrt(np.mean((np.asarray(values) - TRUE_VALUES) ** 2)))


def learn(
    settings: Settings, num_episodes: int = 2000
) -> tuple[dpjax.DPSGD, dict[str, Array]]:
    """Return the mechanism, and tables of values by how they were learnt.

    Args:
        settings: What may be spent, in how many steps.
        num_episodes: Number of episodes; a step takes a quarter of them on average.
    """
    walks = episodes(settings.key("episodes"), num_episodes)
    mechanism = settings.mechanism(num_episodes, num_episodes / 4, l2_norm_clip=1.0)
    optimizer = optax.sgd(0.05, momentum=0.9)
    start = jnp.zeros(STATES)
    learnt = {"before learning": start}
    plain = private_learners.without_privacy(mechanism)
    for name, way in (("TD(0)", plain), ("private TD(0)", mechanism)):
        learnt[name] = private_learners.train(
            way, td_loss, start, walks, optimizer, settings.seed, ema_decay=0.95
        )
    return mechanism, learnt


def describe(settings: Settings) -> str:
    """Learn, and say how well and at what cost."""
    mechanism, learnt = learn(settings)
    columns = ["values", "RMS error", "of state 1", "of state 10", "of state 19"]
    rows = {"true": TRUE_VALUES} | learnt
    found = {name: [rms_error(v), v[0], v[9], v[18]] for name, v in rows.items()}
    return "\n\n".join(
        [
            private_learners.table(columns, found),
            private_learners.guarantee(mechanism, settings.delta, "episode"),
        ]
    )


if __name__ == "__main__":
    private_learners.start(describe, DEFAULTS)
