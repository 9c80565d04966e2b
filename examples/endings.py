"""How a script ends when something is wrong: in one line."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from dpjax.training import interrupts


def end(script: str, error: object, code: int = 2) -> NoReturn:
    """Say in one line why a script ends, and end it.

    Args:
      script: its path or name.
      error: the reason.
      code: the exit status: 2 where what was asked for is wrong, 1 where it failed, 130
        where it was interrupted.
    """
    reason = " ".join(str(error).split())
    print(f"{pathlib.Path(script).name}: {reason}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def interruptible(script: str) -> Iterator[None]:
    """End the script in one line when Ctrl-C interrupts what is done meanwhile."""
    try:
        with interrupts.sent_again():
            yield
    except KeyboardInterrupt:
        end(script, "interrupted", 130)
