"""Events as JSON objects, and back, without the loss of a digit."""

import inspect
import math
import operator
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import dp_event

from dpjax import _check
from dpjax._events import RandomAllocationDpEvent
from dpjax.accounting.events import Event

_CLASSES = {
    cls.__name__: cls
    for cls in (
        dp_accounting.NoOpDpEvent,
        dp_accounting.NonPrivateDpEvent,
        dp_accounting.GaussianDpEvent,
        dp_accounting.LaplaceDpEvent,
        dp_event.DiscreteLaplaceDpEvent,
        dp_event.MixtureOfGaussiansDpEvent,
        dp_event.RandomizedResponseDpEvent,
        dp_accounting.SelfComposedDpEvent,
        dp_accounting.ComposedDpEvent,
        dp_accounting.PoissonSampledDpEvent,
        dp_accounting.SampledWithReplacementDpEvent,
        dp_accounting.SampledWithoutReplacementDpEvent,
        dp_accounting.TruncatedSubsampledGaussianDpEvent,
        dp_accounting.SingleEpochTreeAggregationDpEvent,
        dp_event.RepeatAndSelectDpEvent,
        dp_accounting.ZCDpEvent,
        RandomAllocationDpEvent,
    )
}
_WORDS = {"inf": math.inf, "-inf": -math.inf}


def to_json(event: Event) -> dict[str, Any]:
    """Return `event` as an object that JSON can hold.

    Args:
      event: a `dp_accounting.DpEvent`, compositions and samplings included.

    Returns:
      The event's fields by name, and its class under "type". Floats are written with
      all their digits, and infinity as the word "inf".

    Raises:
      TypeError: `event` is none of the library's events, or a field is no number.
      ValueError: a field is NaN.

    Example:
      >>> to_json(dp_accounting.GaussianDpEvent(1.1))
      {'type': 'GaussianDpEvent', 'noise_multiplier': 1.1}
    """
    cls = type(event)
    if _CLASSES.get(cls.__name__) is not cls:
        _check.fail("an event of dp_accounting", "event", event, TypeError)
    fields = {name: _plain(name, getattr(event, name)) for name in _fields(cls)}
    return {"type": cls.__name__, **fields}


def from_json(value: Any) -> Event:
    """Return the event that `to_json` wrote as `value`.

    Raises:
      ValueError: `value` is no such object.

    Example:
      >>> from_json({"type": "GaussianDpEvent", "noise_multiplier": 1.1})
      GaussianDpEvent(noise_multiplier=1.1)
    """
    name = value.get("type") if isinstance(value, dict) else None
    cls = _CLASSES.get(name) if isinstance(name, str) else None
    if cls is None:
        _check.fail("an event as a JSON object", "event", value)
    if value.keys() != {"type", *_fields(cls)}:
        _check.fail(f"the fields of {name}", "event", value)
    fields = {key: _value(key, value[key]) for key in _fields(cls)}
    return cls(**fields)


def _fields(cls: type[Event]) -> list[str]:
    return list(inspect.signature(cls).parameters)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, dp_accounting.DpEvent):
        return to_json(value)
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(name, item) for item in value]
    if isinstance(value, bool | str):
        _check.fail("a number", name, value, TypeError)
    try:
        return operator.index(value)
    except TypeError:
        return _plain_float(name, value)


def _plain_float(name: str, value: Any) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        _check.fail("a number", name, value, TypeError)
    if math.isnan(number):
        _check.fail("a number", name, value)
    return number if math.isfinite(number) else str(number)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return from_json(value)
    if isinstance(value, list):
        return [_value(name, item) for item in value]
    if isinstance(value, str):
        return _WORDS[_check.choice(name, value, tuple(_WORDS))]
    if isinstance(value, bool) or not isinstance(value, int | float):
        _check.fail("a number", name, value)
    return value
