"""The defects of other libraries that dpjax must not have, and where they were seen.

What is seen is measured by `test_defects` on the version that is named, and no other.
"""

from typing import Literal, NamedTuple

VERSIONS = {
    "optax": "0.2.8",
    "jax-privacy": "2.0.0",
    "dp-accounting": "0.6.0",
    "prv-accountant": "0.2.0",
    "opacus": "1.6.0",
    "tensorflow-privacy": "0.9.0",
    "tensorflow-empirical-privacy": "0.1.0",
}
"""The versions that were asked; what cannot be installed has none."""

Seen = Literal["yes", "no", "not installable"]


class Sighting(NamedTuple):
    """Whether a peer has a defect.

    Attributes:
      peer: as package registries call it, or a name with words where they have none.
      seen: what a test found in the version of `VERSIONS`.
      how: what exactly, in a few words.
    """

    peer: str
    seen: Seen
    how: str = ""


class Defect(NamedTuple):
    """A defect.

    Attributes:
      number: 1 to 26.
      wrong: what goes wrong.
      sightings: where it was looked for.
      prevented: why dpjax does not have it.
    """

    number: int
    wrong: str
    sightings: tuple[Sighting, ...]
    prevented: str


DEFECTS = (
    Defect(
        1,
        "Without a key, noise comes from a constant key: anybody can subtract it.",
        (Sighting("optax", "yes"),),
        "Without a key, `init` draws one from the operating system; under a trace it "
        "is an error.",
    ),
    Defect(
        2,
        "Two runs add the same noise: the difference of what they release has none.",
        (
            Sighting("jax-privacy", "yes", "two runs of one plan"),
            Sighting("jax-privacy's DPTrainer", "not installable", "in no release"),
        ),
        "An optimizer holds no key that it was not given; each `init` draws its own.",
    ),
    Defect(
        3,
        "Past the last row of the noising matrix, the last row's noise is repeated.",
        (Sighting("jax-privacy", "yes"),),
        "A step beyond the plan is an error, and NaN under jit.",
    ),
    Defect(
        4,
        "One example with NaN or Inf makes the released sum NaN.",
        (Sighting("optax", "yes"), Sighting("opacus", "yes")),
        "An example whose gradient is not finite contributes exactly zero.",
    ),
    Defect(
        5,
        "Norms in float16 underflow, and clipped gradients exceed the clip norm.",
        (Sighting("optax", "yes"), Sighting("jax-privacy", "yes")),
        "Norms, factors, sums and noise are float32 at least; casts come last.",
    ),
    Defect(
        6,
        "The sum is divided by the private batch size; an empty batch gives Inf.",
        (Sighting("optax", "yes"),),
        "The divisor is a public constant; a mask without one is an error.",
    ),
    Defect(
        7,
        "The divisor is computed from the number of examples, and tells it.",
        (Sighting("opacus", "yes", "8 and 9 examples: divided by 4 and by 3"),),
        "`expected_batch_size` is given, and public; no data is looked at.",
    ),
    Defect(
        8,
        "A clip norm that follows a quantile costs more than is accounted for.",
        (
            Sighting(
                "opacus", "yes", "its count has sensitivity 1, and is taken to have 1/2"
            ),
        ),
        "The count is of plus or minus 1/2, over a public divisor; its share of the "
        "budget is taken from the sum's.",
    ),
    Defect(
        9,
        "Noise is scaled by the strategy, and the account does not know.",
        (Sighting("jax-privacy", "yes", "with `column_normalize=True`"),),
        "Noise and event come from one sensitivity, computed from the strategy itself.",
    ),
    Defect(
        10,
        "Batches are shuffled, and the account is of Poisson samples.",
        (
            Sighting("opacus", "yes", "with `poisson_sampling=False`"),
            Sighting("jax-privacy", "yes", "Keras, by default"),
        ),
        "The sampler that draws the batches makes the event.",
    ),
    Defect(
        11,
        "Several samples are added up before the noise, and accounted for as one.",
        (
            Sighting("jax-privacy", "yes", "Keras, with `gradient_accumulation_steps`"),
            Sighting("opacus", "no", "refuses"),
        ),
        "A step has one sample, cut into chunks after it was drawn; "
        "`check_optimizer` refuses `optax.MultiSteps` before the noise.",
    ),
    Defect(
        12,
        "The number of microbatches changes what is released, and its sensitivity.",
        (Sighting("tensorflow-privacy", "yes"),),
        "`microbatch_size` is memory alone: the same sum to rounding.",
    ),
    Defect(
        13,
        "An accountant ignores how often a mechanism was run.",
        (
            Sighting("dp-accounting", "yes", "PLD of randomised response"),
            Sighting(
                "dp-accounting's exponential mechanism",
                "not installable",
                "in no release",
            ),
        ),
        "What has no account that is known to be sound raises `AccountingError`.",
    ),
    Defect(
        14,
        "Epsilon is negative; steps are `int(1 / rate)`, sometimes one too few.",
        (Sighting("opacus", "yes", "-0.10 at delta 0.1; 92 steps for 93"),),
        "Epsilon is at least 0; numbers of steps are given as integers.",
    ),
    Defect(
        15,
        "An empty batch of a process is skipped: processes take unlike many steps.",
        (Sighting("opacus", "yes"),),
        "Each step has its chunks, with masks; an empty batch is pure noise.",
    ),
    Defect(
        16,
        "The accountant gives up, or answers less than 0, at hard settings.",
        (Sighting("prv-accountant", "yes", "RuntimeError, ValueError, below 0"),),
        "The transform is inverted along a contour, with error bars; errors have a "
        "type.",
    ),
    Defect(
        17,
        "Secure noise needs a package that cannot be installed on a current Python.",
        (Sighting("opacus", "yes", "`torchcsprng`, last released in 2021"),),
        "Discrete Gaussian noise on integers, from the operating system, is built in.",
    ),
    Defect(
        18,
        "Fast norms of gradients do not know parameters that are used twice.",
        (Sighting("opacus", "yes", "refuses, with NotImplementedError"),),
        "The engine follows every use of a parameter, and falls back leaf by leaf.",
    ),
    Defect(
        19,
        "A misspelt argument is ignored; parameters are dropped from training.",
        (
            Sighting("opacus", "yes", "`poisson_samplng=False` is accepted"),
            Sighting("fastDP", "not installable", "on no registry"),
        ),
        "No function takes arguments that it does not know; parameters that cannot be "
        "trained are an error.",
    ),
    Defect(
        20,
        "A loss that mixes examples, as batch normalisation does, is trained with.",
        (
            Sighting("jax-privacy", "yes", "core, and Keras"),
            Sighting("opacus", "no", "refuses"),
        ),
        "`fit` perturbs rows and refuses a batched loss whose other rows move.",
    ),
    Defect(
        21,
        "A resumed run draws again what it drew before: batches, or noise.",
        (
            Sighting("opacus", "yes", "generators are in no checkpoint"),
            Sighting("jax-privacy's DPTrainer", "not installable", "in no release"),
        ),
        "Batches and noise are functions of key and step; a resumed run equals one "
        "never stopped, bit for bit.",
    ),
    Defect(
        22,
        "A noise multiplier that misses the target epsilon is accepted.",
        (
            Sighting(
                "jax-privacy", "yes", "Keras: 1.05 for 1; more than 4 with accumulation"
            ),
        ),
        "A ledger with a budget raises before the step; calibration ends below it.",
    ),
    Defect(
        23,
        "A lower bound is the best of many thresholds, uncorrected; scores change the "
        "caller's arrays.",
        (Sighting("tensorflow-empirical-privacy", "yes", "four of its five methods"),),
        "Bounds hold for all thresholds at once; functions are pure.",
    ),
    Defect(
        24,
        "An audit finds privacy loss in scores that tell nothing.",
        (Sighting("jax-privacy", "yes", "`epsilon_from_gdp`"),),
        "The same bounds for all thresholds, on one side.",
    ),
    Defect(
        25,
        "Noise of a negative or NaN standard deviation; keys from NumPy's global seed.",
        (
            Sighting("jax-privacy", "yes"),
            Sighting("opacus", "yes", "negative and NaN noise multipliers"),
        ),
        "Settings are finite and in range; no global generator is used.",
    ),
    Defect(
        26,
        "Per-example values lose an axis of size 1.",
        (Sighting("jax-privacy", "yes"),),
        "`.per_example` has its leading axis and the loss's own shape, and is marked "
        "as never private.",
    ),
)
