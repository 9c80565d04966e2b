"""Answer questions to one accountant, in a process of its own that can be ended.

A question is one line of JSON on the standard input, an answer one on the output:

    question: {"task": name of a function, "options": {...}, "rounds": the most,
               "limit": seconds}
    answer:   {"value": ..., "seconds": median}, {"late": limit}, or {"error": why}

Seconds are of processor time, so that what else the machine does counts little. It
imports the standard library alone: Opacus's interpreter runs it too.
"""

import contextlib
import json
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_ENOUGH = 1.0
"""Seconds after which a question is not put again."""

_MOST_BYTES = 8 * 2**30
"""Address space that a process may take: a grid that is too fine ends there."""

Tasks = Mapping[str, Callable[..., Any]]


class LateError(BaseException):
    """The time is up; no `except Exception` of a peer keeps it."""


def answer(
    tasks: Tasks, question: Mapping[str, Any], before: Callable[[], None]
) -> dict[str, Any]:
    """Return the answer to one question; `before` runs untimed before every round."""
    if question["task"] not in tasks:
        return {"error": "not offered"}
    call, seconds, value = tasks[question["task"]], [], None
    while len(seconds) < question["rounds"] and sum(seconds) < _ENOUGH:
        before()
        try:
            with _limited(question["limit"]):
                start = _clocks()
                value = call(**question["options"])
                now = _clocks()
            seconds.append(max(b - a for a, b in zip(start, now, strict=True)))
        except LateError:
            return {"late": question["limit"]}
        except Exception as error:  # whatever a peer raises is its answer
            text = " ".join(str(error).split())[:120]
            return {"error": f"{type(error).__name__}: {text}"}
    return {"value": value, "seconds": statistics.median(seconds)}


def _clocks() -> tuple[float, float]:
    """Return processor time of all threads, and of this one.

    While a timer runs, the first may go by ticks of milliseconds; the second does not.
    """
    return time.process_time(), time.thread_time()


@contextlib.contextmanager
def _limited(limit: float) -> Iterator[None]:
    """Raise a LateError when the block has used so much processor time."""

    def end(*_: object) -> None:
        raise LateError

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def serve(tasks: Tasks, before: Callable[[], None] = lambda: None) -> None:
    """Answer all lines of the standard input; what peers print goes elsewhere."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            found = answer(tasks, json.loads(line), before)
            print(json.dumps(found), file=out, flush=True)
