"""How a script ends when something is wrong: in one line."""

import pathlib
import sys
from typing import NoReturn


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
