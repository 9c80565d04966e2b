"""Ctrl-C and SIGTERM: put off until the step at hand is done, and not lost."""

import _thread
import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AGAIN_AFTER = 0.05
"""Seconds until a lost Ctrl-C is sent again: long enough to be out of the callback."""


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


@contextlib.contextmanager
def sent_again() -> Iterator[None]:
    """Send a Ctrl-C again that Python could not raise.

    An exception in a callback of the garbage collector or of a weak reference is
    printed and forgotten. JAX has many such callbacks, and they are where a signal is
    taken that arrives during a collection: without this, a Ctrl-C while a loss is
    traced has no effect now and then. One that is left over at the end is raised there.
    Outside the main thread, where Python takes no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook
    sent: list[threading.Timer] = []

    def send_again(unraisable: "sys.UnraisableHookArgs") -> None:
        if not _is_lost_ctrl_c(unraisable):
            before(unraisable)
            return
        timer = threading.Timer(_AGAIN_AFTER, _thread.interrupt_main)
        timer.daemon = True
        sent.append(timer)
        timer.start()

    def recalled() -> bool:
        """Whether any that was sent had not arrived; it does not any more."""
        waiting = [timer for timer in sent if timer.is_alive()]
        for timer in waiting:
            timer.cancel()
        return bool(waiting)

    sys.unraisablehook = send_again
    try:
        yield
    except BaseException:
        recalled()
        raise
    finally:
        if sys.unraisablehook is send_again:
            sys.unraisablehook = before
    if recalled():
        raise KeyboardInterrupt


def _is_lost_ctrl_c(unraisable: "sys.UnraisableHookArgs") -> bool:
    """Whether it is a KeyboardInterrupt, and may be had again by SIGINT."""
    return (
        unraisable.exc_type is KeyboardInterrupt
        and threading.current_thread() is threading.main_thread()
        and callable(signal.getsignal(signal.SIGINT))
    )


def _reinstate(handlers: dict) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
