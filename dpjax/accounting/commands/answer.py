"""What a command of the command line answers."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from dpjax.accounting.commands.settings import Run


class Answer(NamedTuple):
    """What a command says.

    Attributes:
      lines: for people.
      data: the same for programs, all digits; a JSON object.
      draw: makes the picture.
    """

    lines: list[str]
    data: dict[str, Any]
    draw: Callable[[], Any]


def given(value: Any) -> Any:
    """Return what the flags made sure of."""
    assert value is not None
    return value


def described(run: Run) -> dict[str, Any]:
    """Return the run as a JSON object."""
    return dataclasses.asdict(run) | {
        "neighbours": "add or remove one example",
        "sampling": "Poisson",
    }
