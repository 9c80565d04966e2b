"""What a person sees of a run: a bar, or plain lines where there is no terminal."""

import math
import shutil
import sys
import time
from typing import Any

try:
    from tqdm import tqdm
except ImportError:  # the extra `train` is not installed: plain lines
    tqdm = None

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A progress bar on stderr; plain lines when stderr is not a terminal.

    Args:
      total: steps of the whole run.
      done: steps done before, when a run is resumed.
      enabled: whether anything is shown.
    """

    def __init__(self, total: int, done: int, *, enabled: bool) -> None:
        """Start the clock."""
        self._total, self._done, self._enabled = total, done, enabled
        self._began: tuple[float, int] | None = None
        self._bar: Any = None
        if enabled and tqdm is not None and sys.stderr.isatty():
            size = shutil.get_terminal_size()  # never 0, as tqdm's own may be
            self._bar = tqdm(
                total=total,
                initial=done,
                bar_format=_BAR,
                ncols=size.columns,
                nrows=size.lines,
            )

    def advance(self, line: dict[str, Any] | None) -> None:
        """Count a step; `line` is its line of metrics when it is a logged one."""
        self._done += 1
        self._began = self._began or (time.monotonic(), self._done)
        if self._bar is not None:
            if line is not None:
                self._bar.set_postfix_str(describe(line), refresh=False)
            self._bar.update()
        elif self._enabled and line is not None:
            step = f"step {self._done}/{self._total}"
            _print(f"{step}  {describe(line)}  {self._time_left()} left")

    def note(self, text: str) -> None:
        """Show a line of text without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._enabled:
            _print(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _time_left(self) -> str:
        """Return minutes and seconds; the first step, which compiles, is left out."""
        began, first = self._began or (time.monotonic(), self._done)
        pace = (time.monotonic() - began) / max(1, self._done - first)
        minutes, seconds = divmod(round(pace * (self._total - self._done)), 60)
        return f"{minutes}:{seconds:02d}"


def describe(line: dict[str, Any]) -> str:
    """Return loss, epsilon and accuracies of one line of metrics."""
    parts = [f"loss {_short(line['not_private']['train_loss'])}"]
    if line["epsilon"]:
        parts.append(f"epsilon {_upper(line['epsilon']['exact'])}")
    shown = [name for name in line["public"] if "accuracy" in name]
    parts += [f"{name} {_short(line['public'][name])}" for name in shown]
    return "  ".join(parts)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _upper(epsilon: Any) -> str:
    """Return an epsilon with three decimals, rounded up: it is an upper bound."""
    if not isinstance(epsilon, int | float):
        return str(epsilon)
    return f"{math.ceil(epsilon * 1000) / 1000:.3f}"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def closing_lines(
    summary: dict[str, Any], mechanism: dict[str, Any], *, seeded: bool
) -> list[str]:
    """Return what is printed at the end of a run.

    Args:
      summary: the object of summary.json.
      mechanism: `mechanism.describe()`.
      seeded: whether the key is that of an integer seed, which can be guessed.
    """
    lines = []
    if summary["status"] == "stopped_at_budget":
        lines.append(
            f"Stopped after step {summary['steps']}: one more would pass the budget."
        )
    for name, value in summary["public"].items():
        lines.append(f"{name}: {_short(value)} (public data)")
    if not summary["private"]:
        return [*lines, "Trained without privacy: epsilon is infinite."]
    epsilon = {name: _upper(value) for name, value in summary["epsilon"].items()}
    if epsilon:
        lines.append(
            f"epsilon: {epsilon['exact']} (exact; PLD {epsilon['pld']}, RDP "
            f"{epsilon['rdp']}) at delta {summary['delta']:g} after "
            f"{summary['steps']} steps"
        )
    if summary["not_a_guarantee"]:
        lines.append(f"Only for comparison: {summary['not_a_guarantee']}.")
    lines.append(f"neighbouring relation: {mechanism['neighboring_relation']}")
    lines.append(f"sampling: {mechanism['sampler_statement']}")
    non_finite = summary["not_private"]["non_finite_examples"]
    if non_finite:
        lines.append(
            f"Warning: {non_finite} losses or gradients of examples were not finite, "
            "and contributed nothing."
        )
    lines.append(
        "Not private, not to be released: training losses and gradient norms (above "
        "and in metrics.jsonl) and the key (private.json)."
    )
    if seeded:
        lines.append(
            "The key comes from a seed: whoever guesses it can take the noise away. "
            "Give no seed for a model that is to be released."
        )
    return lines
