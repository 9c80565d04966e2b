"""The privacy of a run in plain words."""

import textwrap
from collections.abc import Sequence

from dpjax.accounting.commands.settings import Run
from dpjax.accounting.figures import number_up

_SAMPLING = (
    "(*) With Poisson sampling: every example enters every step by a throw of its own, "
    "so that batches differ in size. A loader that shuffles, or goes through the data "
    "in a fixed order, does not do that, and a number marked (*) is then no guarantee. "
    "The number without amplification is one, for data sets in which an example is "
    "replaced by one that contributes nothing; the command epsilon states it."
)
_PERSON = (
    "A person with several examples has a weaker guarantee than one example has; "
    "--group_size=K states that of K examples."
)


def run_lines(run: Run) -> list[str]:
    """Return what the run is, and what is protected."""
    rate = f"each example in a step with probability {run.sampling_prob:g}"
    if run.num_examples is not None and run.batch_size is not None:
        rate += f" ({run.num_examples:,} examples, {run.batch_size:g} a batch)"
    noise = f"noise multiplier {run.noise_multiplier!r}"
    return _wrapped(
        f"DP-SGD: {run.num_steps:,} steps, {noise}, {rate}.",
        "The guarantee is for one example, added to the data or removed from it. It "
        "holds for all intermediate parameters together, not for the last alone.",
    )


def bound_lines(poisson: float, unamplified: float) -> list[str]:
    """Return the two numbers: with Poisson sampling, and with any other batches."""
    rows = [
        ("if every batch is drawn by Poisson sampling (*)", number_up(poisson)),
        ("if batches are shuffled or fixed: no amplification", number_up(unamplified)),
    ]
    return _columns(rows)


def group_lines(delta: float, groups: Sequence[tuple[int, float]]) -> list[str]:
    """Return the guarantees of groups of examples, each (size, epsilon)."""
    if not groups:
        return _wrapped(_PERSON)
    rows = [
        (f"for {size} examples of one person (*)", number_up(epsilon))
        for size, epsilon in groups
    ]
    return [f"Epsilon of a group at delta {delta:g}:", *_columns(rows), ""]


def closing_lines(run: Run, delta: float | None) -> list[str]:
    """Return what the numbers take for granted."""
    lines = [_SAMPLING]
    if delta is not None and run.num_examples and delta * run.num_examples >= 1:
        lines.append(
            f"Warning: delta is not below 1 / {run.num_examples:,}. Such a guarantee "
            "allows a mechanism that publishes an example as it is."
        )
    return _wrapped(*lines)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(text) for text, _ in rows)
    figures = max(len(figure) for _, figure in rows)
    return [f"  {text:<{width}}  {figure:>{figures}}" for text, figure in rows]


def _wrapped(*paragraphs: str) -> list[str]:
    return [line for text in paragraphs for line in (*textwrap.wrap(text, 79), "")]
