"""Ctrl-C and SIGTERM, put off until the step at hand is done."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Training was stopped from outside, after a whole step.

    As a `SystemExit` it ends a script quietly, with the exit code that a shell expects
    (130 after Ctrl-C, 143 after SIGTERM).

    Attributes:
      signum: the signal.
      steps: number of steps done.
    """

    def __init__(self, signum: int, steps: int) -> None:
        """Take the signal's number and the steps done."""
        super().__init__(128 + signum)
        self.signum = signum
        self.steps = steps


@dataclasses.dataclass
class Pending:
    """The signal that has arrived, or None."""

    signum: int | None = None


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """Note SIGINT and SIGTERM instead of acting on them.

    A second signal acts at once, as it would have without this. Outside the main
    thread, where Python takes no signals, nothing is changed.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        pending.signum = signum
        _reinstate(before)

    for signum in _SIGNALS:
        signal.signal(signum, note)
    try:
        yield pending
    finally:
        _reinstate(before)


def _reinstate(handlers: dict) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
