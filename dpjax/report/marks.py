"""The texts of a chart: where ticks and labels stand, so that none covers another."""

import dataclasses
from collections.abc import Callable

from dpjax.report import axes, page

# Width of a character at the style sheet's largest text size, plain and bold.
PLAIN, BOLD = 7.0, 7.8
_LINE_HEIGHT = 13.0


@dataclasses.dataclass(frozen=True)
class Mark:
    """A text, a dot or a tick of the drawing."""

    x: float
    y: float
    text: str
    style: str = ""


def step_ticks(frame: axes.Axes) -> list[Mark]:
    """Return the numbers under the horizontal axis."""
    return [
        Mark(frame.x(tick), frame.bottom + 16, page.number(tick))
        for tick in frame.x_scale.ticks
    ]


def step_word(frame: axes.Axes, last_tick: Mark, word: str) -> Mark:
    """Place the word under the axis to the right of the last number."""
    end_of_tick = last_tick.x + PLAIN * len(last_tick.text) / 2
    return Mark(round(max(frame.right + 8, end_of_tick + 6), 1), last_tick.y, word)


def value_ticks(frame: axes.Axes, form: Callable[[float], str]) -> list[Mark]:
    """Return the numbers beside the vertical axis."""
    return [
        Mark(frame.left - 7, frame.y(tick), form(tick)) for tick in frame.y_scale.ticks
    ]


def spread(labels: list[Mark], frame: axes.Axes) -> list[Mark]:
    """Move labels apart, keeping their order, until none covers another."""
    ordered = sorted(labels, key=lambda mark: mark.y)
    placed: list[Mark] = []
    for mark in ordered:
        lowest = placed[-1].y + _LINE_HEIGHT if placed else axes.TOP
        placed.append(dataclasses.replace(mark, y=max(mark.y, lowest)))
    excess = max(0.0, placed[-1].y - frame.bottom) if placed else 0.0
    return [dataclasses.replace(mark, y=round(mark.y - excess, 1)) for mark in placed]
