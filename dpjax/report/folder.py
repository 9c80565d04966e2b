"""Read a run folder: config.json, metrics.jsonl and, when the run ended, summary.json.

The folder is input from outside: what is missing or damaged raises `ReportError` with
the file's name. One thing is forgiven, since a killed run leaves it behind: a last line
of metrics.jsonl that was not written to its end.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from dpjax import _check

VERSION = 1

_WORDS = {"inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "nan": math.nan}


class ReportError(ValueError):
    """A report's input is missing or damaged, or its page cannot be written."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
      path: the folder.
      config: the object of config.json.
      lines: the objects of metrics.jsonl, steps increasing.
      summary: the object of summary.json, or None while the run has not ended.
      torn: whether an unfinished last line of metrics.jsonl was left out.
    """

    path: pathlib.Path
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None
    torn: bool


def read_run(run_dir: str | pathlib.Path) -> Run:
    """Read the folder of one training run.

    Args:
      run_dir: folder with config.json, metrics.jsonl and perhaps summary.json.

    Raises:
      ReportError: a file is missing or damaged; the message names it.
    """
    path = pathlib.Path(run_dir)
    config = _read_object(path / "config.json")
    _check_config(path / "config.json", config)
    lines, torn = _read_lines(path / "metrics.jsonl")
    summary = None
    if (path / "summary.json").exists():
        summary = _read_object(path / "summary.json")
        _check_record(path / "summary.json", summary, "steps")
    return Run(path, config, lines, summary, torn)


def as_number(value: Any) -> float | None:
    """Return a JSON number, or a word such as "inf" that stands for one, as a float.

    Anything else, also a bool, gives None.
    """
    if isinstance(value, str):
        return _WORDS.get(value.lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"Expected a readable file ({reason}), got {path.name}={str(path)!r}."
        ) from error


def _parse(text: bytes) -> dict[str, Any]:
    value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    text = _read_bytes(path)
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"Expected one JSON object ({error}), got {path.name}={str(path)!r}."
        ) from error


def _read_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], bool]:
    rows = _read_bytes(path).split(b"\n")
    lines: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        is_open = index == len(rows) - 1
        if is_open and not row:
            break
        try:
            lines.append(_parse(row))
        except (ValueError, RecursionError) as error:
            if is_open:
                return lines, True
            raise ReportError(
                f"Expected a JSON object in line {index + 1} ({error}), "
                f"got {path.name}={str(path)!r}."
            ) from error
        _check_line(path, index, lines)
    return lines, False


def _check_line(path: pathlib.Path, index: int, lines: list[dict[str, Any]]) -> None:
    name = f"{path.name} line {index + 1}"
    _check_record(path, lines[-1], "step", name)
    if len(lines) > 1 and lines[-1]["step"] <= lines[-2]["step"]:
        _check.fail("steps that increase", name, lines[-1]["step"], ReportError)


def _check_record(
    path: pathlib.Path, record: dict[str, Any], counter: str, name: str = ""
) -> None:
    """Check what a metrics line and the summary have in common."""
    name = name or path.name
    step = record.get(counter)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        _check.fail(f"an integer {counter!r} >= 0", name, step, ReportError)
    for key in ("epsilon", "public", "not_private", "sha256"):
        _check_table(name, record, key)
    _check_table(name, record.get("not_private", {}), "grad_norm_quantiles")


def _check_config(path: pathlib.Path, config: dict[str, Any]) -> None:
    name = path.name
    if config.get("version") != VERSION:
        expected = f"'version': {VERSION}"
        _check.fail(expected, name, config.get("version"), ReportError)
    if not isinstance(config.get("private"), bool):
        expected = "'private': true or false"
        _check.fail(expected, name, config.get("private"), ReportError)
    delta = as_number(config.get("delta"))
    if config["private"] and not (delta is not None and 0 < delta < 1):
        expected = "a number 'delta' in (0, 1)"
        _check.fail(expected, name, config.get("delta"), ReportError)
    for key in ("mechanism", "settings", "training", "model", "versions"):
        _check_table(name, config, key)


def _check_table(name: str, record: dict[str, Any], key: str) -> None:
    """Require `record[key]` to be an object; a missing one becomes empty."""
    if record.get(key) is None:
        record[key] = {}
    if not isinstance(record[key], dict):
        expected = f"an object under {key!r}"
        _check.fail(expected, name, record[key], ReportError)
