"""What all pages share: number formats, the template environment, the file itself."""

import decimal
import math
import os
import pathlib
import tempfile
from typing import Any

import jinja2

from dpjax import _files
from dpjax.report.folder import ReportError

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("dpjax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def number(value: float, digits: int = 4) -> str:
    """Format a number to `digits` significant digits, as a reader would write it.

    >>> number(12345), number(0.5), number(0.00002), number(float("inf"))
    ('12,345', '0.5', '2e-5', '∞')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) < 1e7 and (value == round(value) or abs(value) >= 10 ** (digits - 1)):
        return f"{value:,.0f}".replace("-", MINUS)
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return MINUS + text[1:] if text.startswith("-") else text


def number_short(value: float) -> str:
    """Format a number for a chart."""
    return number(value, 3)


def number_up(value: float, digits: int = 3) -> str:
    """Format a number rounded up, never down: for epsilon, delta and other bounds.

    >>> number_up(2.9801), number_up(2.98), number_up(1e-4), number_up(0.0)
    ('2.99', '2.98', '1e-4', '0')
    """
    if not math.isfinite(value) or value == 0:
        return number(value)
    exact = decimal.Decimal(repr(value))
    unit = decimal.Decimal((0, (1,), exact.adjusted() - digits + 1))
    rounded = exact.quantize(unit, rounding=decimal.ROUND_CEILING)
    if 1e-2 <= rounded < 10**digits:
        places = max(0, digits - 1 - rounded.adjusted())
        return f"{rounded:.{places}f}"
    mantissa, exponent = f"{rounded:e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def number_down(value: float, digits: int = 3) -> str:
    """Format a number >= 0 rounded down, never up: for lower bounds.

    >>> number_down(1.2789), number_down(0.0), number_down(123.4)
    ('1.27', '0', '123')
    """
    if value == 0 or not math.isfinite(value):
        return number(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return number(math.floor(value / unit * (1 + 1e-12)) * unit, digits)


def percent(value: float) -> str:
    r"""Format a fraction as a percentage with one decimal.

    >>> percent(0.91234), percent(0.96)
    ('91.2\xa0%', '96.0\xa0%')
    """
    return f"{100 * value:.1f}{SPACE}%"


def percent_short(value: float) -> str:
    """Format a fraction as a percentage for a chart: no decimals that say nothing."""
    return f"{number_short(100 * value)}{SPACE}%"


def percent_up(value: float) -> str:
    """Format a fraction as a percentage, rounded up."""
    return f"{number_up(100 * value)}{SPACE}%"


def duration(seconds: float) -> str:
    """Format a time span in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{SPACE}h {minutes}{SPACE}min"


def label(key: str) -> str:
    """Turn a key such as test_accuracy into words: Test accuracy."""
    words = key.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def render(template: str, **context: Any) -> str:
    """Fill a template of this package. Every value is escaped."""
    return _ENVIRONMENT.get_template(template).render(**context)


def write_private(path: pathlib.Path, text: str) -> pathlib.Path:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
      ReportError: the folder cannot be written, or the disk is full. A page that was
        there before is then still there.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _files.PRIVATE_FILE)
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"Expected a file that can be written ({reason}), "
            f"got {path.name}={str(path)!r}."
        ) from error
    return path
