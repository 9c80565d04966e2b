"""What the private learners share: flags, training with and without privacy, words."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import optax
from absl import app, flags, logging
from endings import end

import dpjax
from dpjax import training
from dpjax.types import ArrayTree, LossFn, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a private learner.

    Attributes:
        epsilon: What the private run may spend, above 0.
        delta: The delta of (epsilon, delta)-differential privacy, in (0, 1).
        steps: Training steps, at least 1.
        seed: Makes a run reproducible; None draws from the operating system.

    Raises:
        FlagError: If epsilon or delta is out of range.
    """

    epsilon: float
    delta: float
    steps: int
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what no mechanism is asked for before there is data."""
        if not 0 < self.epsilon < math.inf:
            self._refuse("a finite number > 0", "epsilon")
        if not 0 < self.delta < 1:
            self._refuse("a number in (0, 1)", "delta")

    def _refuse(self, expected: str, name: str) -> NoReturn:
        value = getattr(self, name)
        raise training.FlagError(f"Expected {expected}, got --{name}={value}.")

    def key(self, domain: str) -> jax.Array:
        """Return the key of what a script draws itself, such as "tasks"."""
        words = dpjax.noise.key_data(self.seed)
        return dpjax.noise.domain_key(words, f"examples.private_learners.{domain}")

    def mechanism(
        self, num_examples: int, expected_batch_size: float, l2_norm_clip: float
    ) -> dpjax.DPSGD:
        """Return Poisson-sampled DP-SGD with the least noise that keeps to epsilon."""
        return dpjax.DPSGD(
            num_examples=num_examples,
            expected_batch_size=expected_batch_size,
            num_steps=self.steps,
            l2_norm_clip=l2_norm_clip,
        ).calibrate(self.epsilon, self.delta)


def without_privacy(mechanism: dpjax.DPSGD) -> dpjax.NonPrivate:
    """Return the same loop with batches of the same sizes, not clipped, not noised."""
    return dpjax.NonPrivate(
        num_examples=mechanism.num_examples,
        expected_batch_size=mechanism.expected_batch_size,
        num_steps=mechanism.num_steps,
    )


def train(
    mechanism: dpjax.DPSGD | dpjax.NonPrivate,
    loss_fn: LossFn,
    params: Params,
    data: ArrayTree,
    optimizer: optax.GradientTransformation,
    seed: int | None,
    **options: Any,
) -> Params:
    """Return trained parameters; their average over the steps with `ema_decay`."""
    quiet = training.Logging(every=mechanism.num_steps, progress=False)
    result = training.fit(
        mechanism,
        loss_fn,
        params,
        data,
        optimizer,
        key=seed,
        logging=quiet,
        **options,
    )
    return result.params if result.average is None else result.average


def guarantee(mechanism: dpjax.DPSGD, delta: float, unit: str) -> str:
    """Return in words what `mechanism` promises to one `unit`, such as "episode"."""
    epsilon = f"{math.ceil(1e4 * mechanism.epsilon(delta)) / 1e4:.4f}"  # never less
    return (
        f"The private run is ({epsilon}, {delta:g})-differentially private for each "
        f"{unit}:\nwith one {unit} more or less in the data, no outcome is more than "
        f"e^{epsilon} times\nas likely, up to {delta:g} (neighbours: add or remove one "
        f"{unit}). Noise multiplier\n{mechanism.noise_multiplier:.3f}, clip norm "
        f"{mechanism.l2_norm_clip:g}, {mechanism.num_steps} steps, each {unit} in a "
        f"batch with probability {mechanism.sampling_prob:.3g}.\nThe number of "
        f"{unit}s and all settings are public. Keep the key secret: a --seed that\n"
        "can be guessed gives the noise away. What else was learnt here is not private."
    )


def table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """Return rows of numbers, each after its name, under `columns`."""
    width = max(map(len, [columns[0], *rows]))
    lines = [(columns[0], columns[1:])]
    lines += [(name, [f"{x:.3f}" for x in numbers]) for name, numbers in rows.items()]
    return "\n".join(
        f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells)
        for name, cells in lines
    )


def define_flags(
    defaults: Settings, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Define one flag for each of the settings."""
    for name, text in (
        ("epsilon", "What the private run may spend."),
        ("delta", "The delta of that epsilon."),
    ):
        default = getattr(defaults, name)
        flags.DEFINE_float(name, default, text, flag_values=flag_values)
    for name, text, least in (
        ("steps", "Training steps.", 1),
        ("seed", "Make a run reproducible; who knows it can take the noise away.", 0),
    ):
        default = getattr(defaults, name)
        flags.DEFINE_integer(
            name, default, text, lower_bound=least, flag_values=flag_values
        )


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse the flags; what is wrong ends the script in one line."""
    try:
        rest: list[str] = flag_values(argv)
        if len(rest) > 1:
            raise training.FlagError(f"Expected flags alone, got {rest[1]!r}.")
    except (flags.Error, ValueError) as error:
        end(argv[0], error)
    return rest


def run(
    describe: Callable[[Settings], str],
    script: str,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Print what is found with the flags; what goes wrong ends it in one line."""
    names = [field.name for field in dataclasses.fields(Settings)]
    given: Any = {name: flag_values[name].value for name in names}
    try:
        print(describe(Settings(**given)))
    except (ValueError, OSError) as error:
        end(script, error)


def start(describe: Callable[[Settings], str], defaults: Settings) -> None:
    """Run a script whose flags are the settings."""

    def main(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.FATAL)  # JAX logs which platforms it tries
        run(describe, argv[0])

    define_flags(defaults)
    app.run(main, flags_parser=parse)
