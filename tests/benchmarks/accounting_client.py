"""Ask accountants in processes of their own, with a limit on the time."""

import json
import os
import pathlib
import queue
import subprocess
import threading
from typing import Any, Self

HERE = pathlib.Path(__file__).parent


class Client:
    """One accountant's process; it is started when asked, and again after a limit.

    Args:
        name: What it is called.
        command: Interpreter, script and what the script is given.
        limit: Seconds of processor time after which a question is given up; who does
            not notice ends after ten times that by the clock.
    """

    def __init__(self, name: str, command: list[str], limit: float) -> None:
        self.name, self._command, self.limit = name, command, limit
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, task: str, *, rounds: int = 1, **options: Any) -> dict[str, Any]:
        """Return the worker's answer, or `{"late": limit}`, or `{"error": why}`."""
        process = self._started()
        question = {"task": task, "options": options, "rounds": rounds}
        question["limit"] = self.limit
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        try:
            line = self._answers.get(timeout=10 * self.limit)
        except queue.Empty:
            self.close()
            return {"late": self.limit}
        if not line:
            self.close()
            return {"error": "its process ended"}
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | threads,
            )
            self._answers = queue.Queue()
            arguments = (self._process.stdout, self._answers)
            threading.Thread(target=_read, args=arguments, daemon=True).start()
            self.ask("nothing")  # Importing takes long, and is no part of an answer.
        return self._process


def _read(stream: Any, answers: "queue.Queue[str]") -> None:
    """Hand all lines on, and an empty one at the end."""
    for line in stream:
        answers.put(line)
    answers.put("")
