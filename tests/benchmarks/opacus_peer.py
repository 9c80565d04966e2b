"""Ask Opacus, in an environment of its own, for the rows that it can run."""

import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import programs

WORKER = pathlib.Path(__file__).with_name("opacus_worker.py")


def measure(
    python: str, row: dict[str, Any], names: Sequence[str], options: programs.Options
) -> dict[str, Any]:
    """Return entries for a row of the first table, as `opacus_worker` made them.

    Each row gets a process of its own, so that one that runs out of memory ends alone.

    Args:
        python: Interpreter that has PyTorch and Opacus.
        row: A row of `gradients.measure`, whose "model" and "sizes" are run.
        names: Which of `contestants.OPACUS` to return.
        options: How to measure.

    Returns:
        `{"versions": {...}, "torch_plain_ms": ..., "contestants": {...}}`; ratios are
        against PyTorch's plain gradient in the same process.
    """
    request = {
        "model": row["model"],
        "sizes": row["sizes"],
        "rounds": options.rounds,
        "turn": options.turn,
        "max_bytes": options.max_bytes,
    }
    command = [python, "-W", "ignore", str(WORKER), json.dumps(request)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        why = {"dropped": f"its process ended with code {done.returncode}"}
        return {
            "versions": {},
            "torch_plain_ms": None,
            "contestants": dict.fromkeys(names, why),
        }
    answer = json.loads(done.stdout.splitlines()[-1])
    found = answer["contestants"]
    return {
        "versions": answer["versions"],
        "torch_plain_ms": found["plain"].get("ms"),
        "contestants": {name: found[name] for name in names},
    }
